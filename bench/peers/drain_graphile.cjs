// graphile-worker: enqueue and drain; prints one line of JSON. Runs in the peers' npm directory.
const { run, makeWorkerUtils, runMigrations } = require("graphile-worker");
const { Pool } = require("pg");

const [url, jobs, slow, ones, tuned] = [process.argv[2], ...process.argv.slice(3).map(Number)];
// Given as parts: pg reads a socket directory from `host` only.
const parsed = new URL(url.replace("@/", "@localhost/"));
const config = { host: parsed.searchParams.get("host"), user: parsed.username, database: parsed.pathname.slice(1), port: 5432 };
const now = () => Number(process.hrtime.bigint()) / 1e9;
let seen = [], latency = [], left = 0, finished = () => {};
const mark = () => { seen.push(now()); if (--left === 0) finished(); };
const tasks = {
  noop: async () => mark(),
  slow: async () => { await new Promise((r) => setTimeout(r, 5)); mark(); },
  stamp: async (p) => { latency.push(Date.now() - p.at); finished(); },
};
const preset = tuned
  ? { worker: { concurrentJobs: 50, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0, pollInterval: 1000 } }
  : { worker: { concurrentJobs: 50, pollInterval: 1000 } };

async function drain(pool, name, count) {
  seen = []; left = count;
  await pool.query(`select graphile_worker.add_job($1, json_build_object('n', i)) from generate_series(1, $2) i`, [name, count]);
  const done = new Promise((r) => { finished = r; });
  const runner = await run({ pgPool: pool, taskList: tasks, noHandleSignals: true, preset, logger: quiet });
  await done;
  const rate = (seen.length - 1) / (seen[seen.length - 1] - seen[0]);
  await runner.stop();
  return rate;
}
const { Logger } = require("graphile-worker");
const quiet = new Logger(() => () => {});

(async () => {
  const pool = new Pool({ ...config, max: 60 });
  await runMigrations({ pgPool: pool, logger: quiet });
  const out = {};
  let start = now();
  for (let i = 0; i < ones; i++) await pool.query(`select graphile_worker.add_job('noop', '{"n":1}')`);
  out.enqueue_one_us = ((now() - start) / ones) * 1e6;
  start = now();
  await pool.query(`select graphile_worker.add_job('noop', json_build_object('n', i)) from generate_series(1, 1000) i`);
  out.enqueue_many_us = ((now() - start) / 1000) * 1e6;
  await pool.query(`select graphile_worker.complete_jobs(array(select id from graphile_worker.jobs))`);
  out.noop_per_s = await drain(pool, "noop", jobs);
  if (slow) {
    out.slow_per_s = await drain(pool, "slow", slow);
    const runner = await run({ pgPool: pool, taskList: tasks, noHandleSignals: true, preset, logger: quiet });
    await new Promise((r) => setTimeout(r, 1000));
    for (let i = 0; i < 30; i++) {
      const done = new Promise((r) => { finished = r; });
      await pool.query(`select graphile_worker.add_job('stamp', json_build_object('at', $1::bigint))`, [Date.now()]);
      await done;
    }
    await runner.stop();
    latency.sort((a, b) => a - b);
    out.pickup_ms = latency[Math.floor(latency.length / 2)];
  }
  console.log(JSON.stringify(out));
  await pool.end();
})().catch((e) => { console.error(e); process.exit(1); });
