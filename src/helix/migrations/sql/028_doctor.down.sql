-- 028_doctor.down.sql: takes back what 028_doctor.up.sql made, and nothing else.
DROP VIEW long_transactions;
DROP VIEW table_bloat;
DROP VIEW duplicate_indexes;
DROP VIEW table_growth;
DELETE FROM rls_exempt_tables WHERE table_name = 'size_samples';
DROP TABLE size_samples;
