-- What was read from and written to providers' caches, by all that a price depends on: the prices are put to it in
-- Python. Substituted besides: {sizes}, how many of the thresholds at which a price changes the whole input is above.
SELECT
    {groups}
    upstream,
    model,
    model_asked,
    service_tier,
    date_trunc('hour', ts) AS hour,
    {sizes} AS size,
    count(*) AS requests,
    sum(coalesce(cache_read_tokens, 0)) AS cache_read_tokens,
    sum(coalesce(cache_write_5m_tokens, 0)) AS cache_write_5m_tokens,
    sum(coalesce(cache_write_1h_tokens, 0)) AS cache_write_1h_tokens
FROM ({rows}) AS r
WHERE cache_read_tokens > 0 OR cache_write_5m_tokens > 0 OR cache_write_1h_tokens > 0
GROUP BY {every}
