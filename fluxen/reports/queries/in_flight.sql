-- Requests that have begun and not ended. What their end will tell is not known.
SELECT count(*) AS requests FROM in_flight WHERE {condition}
