-- How long it took, as percentiles (50, 90, 95, 99) that a request really had (no interpolation). Failed requests don't
-- count: a refusal is quick. Of tokens a second the higher ones are the slower ones: 95 % of answers were at least as fast.
SELECT
    {groups}
    count(*) AS requests,
    count(ttfb_ms) AS ttfb_ms_count,
    percentile_disc(ARRAY[0.5, 0.9, 0.95, 0.99]) WITHIN GROUP (ORDER BY ttfb_ms) AS ttfb_ms,
    max(ttfb_ms) AS ttfb_ms_worst,
    count(latency_ms) AS latency_ms_count,
    percentile_disc(ARRAY[0.5, 0.9, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms) AS latency_ms,
    max(latency_ms) AS latency_ms_worst,
    count(overhead_us) AS overhead_us_count,
    percentile_disc(ARRAY[0.5, 0.9, 0.95, 0.99]) WITHIN GROUP (ORDER BY overhead_us) AS overhead_us,
    max(overhead_us) AS overhead_us_worst,
    count(speed) AS tokens_per_s_count,
    percentile_disc(ARRAY[0.5, 0.1, 0.05, 0.01]) WITHIN GROUP (ORDER BY speed) AS tokens_per_s,
    min(speed) AS tokens_per_s_slowest
FROM (
    SELECT
        *,
        -- Streams: from the first byte to the last. Others are silent until all is generated. Under 50 ms it says nothing.
        CAST(output_tokens * 1000 AS DECIMAL(18, 1)) / CASE
            WHEN stream AND latency_ms - ttfb_ms >= 50 THEN latency_ms - ttfb_ms
            WHEN NOT coalesce(stream, false) AND latency_ms >= 50 THEN latency_ms END AS speed
    FROM ({rows}) AS a
    WHERE NOT failed
) AS r
GROUP BY {sets}
