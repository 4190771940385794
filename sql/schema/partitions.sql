-- partitions.sql: the monthly partitions a new installation begins with: last month, this one and the three ahead.
-- Runs after every table, index and foreign key is there, since partitions take them over. Afterwards a scheduled task keeps
-- making months ahead; a month that is missing all the same lands in <table>_default and is moved when it is made.
SELECT helix_create_partitions(1, 3);
