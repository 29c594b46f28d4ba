-- How long it took, as percentiles that a request really had (no interpolation). Failed requests don't count: a refusal
-- is quick. Of tokens a second the higher percentiles are the slower ones: 95 % of answers were at least as fast.
SELECT
    {groups}
    count(*) AS requests,
    count(ttfb_ms) AS ttfb_ms_count,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY ttfb_ms) AS ttfb_ms_p50,
    percentile_disc(0.9) WITHIN GROUP (ORDER BY ttfb_ms) AS ttfb_ms_p90,
    percentile_disc(0.95) WITHIN GROUP (ORDER BY ttfb_ms) AS ttfb_ms_p95,
    percentile_disc(0.99) WITHIN GROUP (ORDER BY ttfb_ms) AS ttfb_ms_p99,
    max(ttfb_ms) AS ttfb_ms_worst,
    count(latency_ms) AS latency_ms_count,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY latency_ms) AS latency_ms_p50,
    percentile_disc(0.9) WITHIN GROUP (ORDER BY latency_ms) AS latency_ms_p90,
    percentile_disc(0.95) WITHIN GROUP (ORDER BY latency_ms) AS latency_ms_p95,
    percentile_disc(0.99) WITHIN GROUP (ORDER BY latency_ms) AS latency_ms_p99,
    max(latency_ms) AS latency_ms_worst,
    count(overhead_us) AS overhead_us_count,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY overhead_us) AS overhead_us_p50,
    percentile_disc(0.9) WITHIN GROUP (ORDER BY overhead_us) AS overhead_us_p90,
    percentile_disc(0.95) WITHIN GROUP (ORDER BY overhead_us) AS overhead_us_p95,
    percentile_disc(0.99) WITHIN GROUP (ORDER BY overhead_us) AS overhead_us_p99,
    max(overhead_us) AS overhead_us_worst,
    count(speed) AS tokens_per_s_count,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY speed) AS found_tokens_per_s_p50,
    percentile_disc(0.1) WITHIN GROUP (ORDER BY speed) AS found_tokens_per_s_p90,
    percentile_disc(0.05) WITHIN GROUP (ORDER BY speed) AS found_tokens_per_s_p95,
    percentile_disc(0.01) WITHIN GROUP (ORDER BY speed) AS found_tokens_per_s_p99,
    min(speed) AS found_tokens_per_s_worst
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
