-- Statements of core/seats.py.

-- name: read_seating
-- What the whole server allows and has in use, and the names of the seats. Reads the statistics only; every login sees the names.
SELECT current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer AS allowed,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' OR backend_type IS NULL)::integer AS used,
       array(SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'helix seat %') AS names;
