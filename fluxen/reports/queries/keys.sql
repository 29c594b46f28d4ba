-- Who spent it: what each client key was used for, how widely, and when last.
SELECT
    {groups}
    count(*) AS requests,
    count(*) FILTER (WHERE failed) AS errors,
    count(DISTINCT coalesce(model, model_asked)) AS models,
    sum(prompt_tokens) AS prompt_tokens,
    sum(output_tokens) AS output_tokens,
    CASE WHEN count(*) FILTER (WHERE cost_unknown) > 0 AND coalesce(sum(cost_usd), 0) = 0 THEN NULL
        ELSE coalesce(sum(cost_usd), 0) END AS cost_usd,
    count(*) FILTER (WHERE cost_unknown) AS unknown_cost,
    count(*) FILTER (WHERE usage_source = 'estimated') AS estimated,
    min(ts) AS first_seen,
    max(ts) AS last_seen
FROM ({rows}) AS r
GROUP BY {sets}
