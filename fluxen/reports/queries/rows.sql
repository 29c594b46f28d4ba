-- The requests a report is about, with what they are grouped by (d0, d1, …) and what several reports count.
-- Substituted: {dimensions} and {condition}. Each named query reads this in place of {rows}.
SELECT
    {dimensions}*,
    -- answered with an error, or not at all
    coalesce(error IS NOT NULL OR status >= 400, false) AS failed,
    -- what is not known is not 0; a refused request costs nothing, and that is known
    cost_usd IS NULL AND usage_source IS DISTINCT FROM 'none' AS cost_unknown,
    coalesce(cache_write_5m_tokens + cache_write_1h_tokens, cache_write_5m_tokens, cache_write_1h_tokens)
        AS cache_write_tokens,
    -- all that was read, afresh or from a cache or into one
    CASE WHEN coalesce(input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens) IS NOT NULL
        THEN coalesce(input_tokens, 0) + coalesce(cache_read_tokens, 0) + coalesce(cache_write_5m_tokens, 0)
            + coalesce(cache_write_1h_tokens, 0) END AS prompt_tokens
FROM requests
WHERE {condition}
