-- What each model is worth: use, failures, price paid per request, speed.
SELECT
    {groups}
    count(*) AS requests,
    count(*) FILTER (WHERE failed) AS errors,
    sum(prompt_tokens) AS prompt_tokens,
    sum(output_tokens) AS output_tokens,
    CASE WHEN count(*) FILTER (WHERE cost_unknown) > 0 AND coalesce(sum(cost_usd), 0) = 0 THEN NULL
        ELSE coalesce(sum(cost_usd), 0) END AS cost_usd,
    count(*) FILTER (WHERE cost_unknown) AS unknown_cost,
    count(*) FILTER (WHERE usage_source = 'estimated') AS estimated,
    count(*) FILTER (WHERE NOT failed AND cost_usd IS NOT NULL) AS priced,
    sum(cost_usd) FILTER (WHERE NOT failed) AS cost_of_priced,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY CASE WHEN NOT failed THEN latency_ms END) AS latency_ms_p50,
    max(ts) AS last_seen
FROM ({rows}) AS r
GROUP BY {sets}
