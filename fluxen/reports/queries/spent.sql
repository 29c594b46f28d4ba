-- The known cost, beside reports that are not about money.
SELECT coalesce(sum(cost_usd), 0) AS cost_usd FROM ({rows}) AS r
