-- The first and the last request.
SELECT min(ts) AS first, max(ts) AS last FROM ({rows}) AS r
