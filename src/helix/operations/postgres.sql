-- name: read_suitability
-- What decides whether Helix can live in this database; reads the catalogue only.
SELECT current_database() AS database,
       current_user AS login,
       pg_encoding_to_char(d.encoding) AS encoding,
       pg_is_in_recovery() AS standby,
       current_setting('default_transaction_read_only')::boolean AS read_only,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector_installed,
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector') AS vector_available,
       r.rolsuper OR coalesce((SELECT bool_or(v.trusted) FROM pg_available_extension_versions AS v
                               WHERE v.name = 'vector'), false)
                     AND has_database_privilege(current_database(), 'CREATE') AS may_install_vector,
       coalesce(has_schema_privilege(to_regnamespace('public'), 'CREATE'), false) AS may_create,
       r.rolsuper OR r.rolcreaterole
           OR (SELECT count(*) FROM pg_roles AS h WHERE h.rolname = ANY (:roles::text[])
                                                    AND pg_has_role(h.oid, 'MEMBER'))
              = cardinality(:roles::text[]) AS may_have_roles,
       current_setting('max_connections')::integer
           - current_setting('superuser_reserved_connections')::integer AS connections,
       array(SELECT s.name FROM pg_settings AS s WHERE s.name = ANY (:always_on::text[]) AND s.setting = 'off')
           AS unsafe
FROM pg_database AS d JOIN pg_roles AS r ON r.rolname = current_user
WHERE d.datname = current_database();

-- name: find_database
SELECT EXISTS (SELECT FROM pg_database WHERE datname = :name) AS found;
