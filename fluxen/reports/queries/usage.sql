-- What was used: tokens of every class, calls of the providers' tools, and where the counts come from.
SELECT
    {groups}
    count(*) AS requests,
    count(*) FILTER (WHERE usage_source = 'reported') AS reported,
    count(*) FILTER (WHERE usage_source = 'estimated') AS estimated,
    count(*) FILTER (WHERE usage_source IS NULL OR usage_source IN ('partial', 'unknown')) AS unknown_usage,
    sum(input_tokens) AS input_tokens,
    sum(cache_read_tokens) AS cache_read_tokens,
    sum(cache_write_5m_tokens) AS cache_write_5m_tokens,
    sum(cache_write_1h_tokens) AS cache_write_1h_tokens,
    sum(output_tokens) AS output_tokens,
    sum(reasoning_tokens) AS reasoning_tokens,
    sum(audio_tokens) AS audio_tokens,
    sum(image_tokens) AS image_tokens,
    sum(searches) AS searches,
    sum(tool_calls) AS tool_calls,
    sum(coalesce(prompt_tokens + output_tokens, prompt_tokens, output_tokens)) AS total_tokens
FROM ({rows}) AS r
GROUP BY {sets}
