-- Beside every report: by model, what has no known cost and why, and what is estimated.
-- `why`: lost (the process ended), unpriced (usage is known, a price is not), unmeasured (usage is not known),
-- estimated (counted by us, and part of the cost).
SELECT
    why,
    coalesce(model, model_asked) AS model,
    count(*) AS requests,
    sum(cost_usd) AS cost_usd,
    sum(cost_usd * CAST(usage_error AS DECIMAL(9, 6))) AS error_usd,
    sum(bound_usd) AS bound_usd,
    count(*) - count(bound_usd) AS unbounded
FROM (
    SELECT
        *,
        CASE WHEN NOT cost_unknown THEN 'estimated'
            WHEN error = 'lost' THEN 'lost'
            WHEN usage_source IN ('reported', 'estimated') THEN 'unpriced'
            ELSE 'unmeasured' END AS why
    FROM ({rows}) AS a
    WHERE cost_unknown OR usage_source = 'estimated'
) AS r
GROUP BY 1, 2
