-- The course of one figure per group, in {count} equal slices of the time. Substituted besides: {measure}.
SELECT
    {groups}
    slice,
    {measure} AS value
FROM (
    SELECT *, CAST(floor(extract(epoch FROM ts - CAST(? AS TIMESTAMP)) * {count} / {seconds}) AS INTEGER) AS slice
    FROM ({rows}) AS a
) AS r
GROUP BY {every}
