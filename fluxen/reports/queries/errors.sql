-- What failed: how often, how large a part of the requests that could have failed so, since when and until when.
-- Substituted besides: {outcomes}, the dimensions that say how a request ended. The others say where it went, and the
-- rate is that of all requests that went there.
SELECT
    {groups}
    count(*) FILTER (WHERE failed) AS errors,
    CAST(sum(count(*)) OVER (PARTITION BY {places}) AS BIGINT) AS requests,
    min(ts) FILTER (WHERE failed) AS first_seen,
    max(ts) FILTER (WHERE failed) AS last_seen
FROM ({rows}) AS r
GROUP BY {sets}
