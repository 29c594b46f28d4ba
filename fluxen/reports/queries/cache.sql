-- What caches did: the providers' (tokens read and written) and our own.
SELECT
    {groups}
    count(*) FILTER (WHERE prompt_tokens IS NOT NULL) AS requests,
    count(*) FILTER (WHERE cache_read_tokens > 0) AS requests_with_reads,
    sum(prompt_tokens) AS prompt_tokens,
    sum(cache_read_tokens) AS cache_read_tokens,
    sum(cache_write_tokens) AS cache_write_tokens,
    count(*) FILTER (WHERE cache IN ('hit', 'semantic')) AS fluxen_hits,
    count(*) FILTER (WHERE cache IS NOT NULL) AS fluxen_asked,
    sum(saved_usd) AS fluxen_saved_usd
FROM ({rows}) AS r
GROUP BY {sets}
