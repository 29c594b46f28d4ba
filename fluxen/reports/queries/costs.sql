-- What was spent: requests, tokens and exact dollars.
-- A group in which nothing is known to have cost anything while something is unknown has no cost: "$0" is a claim.
SELECT
    {groups}
    count(*) AS requests,
    count(*) FILTER (WHERE failed) AS errors,
    sum(input_tokens) AS input_tokens,
    sum(cache_read_tokens) AS cache_read_tokens,
    sum(cache_write_tokens) AS cache_write_tokens,
    sum(output_tokens) AS output_tokens,
    CASE WHEN count(*) FILTER (WHERE cost_unknown) > 0 AND coalesce(sum(cost_usd), 0) = 0 THEN NULL
        ELSE coalesce(sum(cost_usd), 0) END AS cost_usd,
    count(*) FILTER (WHERE cost_unknown) AS unknown_cost,
    count(*) FILTER (WHERE usage_source = 'estimated') AS estimated
FROM ({rows}) AS r
GROUP BY {sets}
