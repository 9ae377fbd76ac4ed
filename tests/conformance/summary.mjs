// Counts the checks of a conformance run: node summary.mjs --results DIR --status N [--trust-status]
// --status is the suite's exit code. With --trust-status it decides the verdict (the suite leaves out what is expected to
// fail); without, every failed check counts. A run without results, or one that ended badly without naming a failed
// check, is a failure.
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

const { values } = parseArgs({
  options: {
    results: { type: 'string' },
    status: { type: 'string', default: '0' },
    'trust-status': { type: 'boolean', default: false },
  },
});

const count = { SUCCESS: 0, FAILURE: 0, WARNING: 0, INFO: 0, SKIPPED: 0 };
const failures = [];
let scenarios = 0;
for (const file of fs.readdirSync(values.results, { recursive: true }).sort()) {
  if (path.basename(file) !== 'checks.json') continue;
  scenarios++;
  const scenario = path.dirname(file).replace(/-\d{4}-\d\d-\d\dT[\w-]+$/, '');
  for (const check of JSON.parse(fs.readFileSync(path.join(values.results, file), 'utf8'))) {
    count[check.status] = (count[check.status] ?? 0) + 1;
    if (check.status === 'FAILURE')
      failures.push(`${scenario} ${check.id}: ${(check.errorMessage ?? '').slice(0, 160)}`);
  }
}
if (failures.length) console.log('\nFailed checks:\n  ' + failures.join('\n  '));
console.log(
  `\nscenarios ${scenarios}, warnings ${count.WARNING}, info ${count.INFO}, skipped ${count.SKIPPED}, suite exit ${values.status}`,
);
const endedBadly = values.status !== '0';
const failed = scenarios === 0 || (endedBadly && count.FAILURE === 0) ? Math.max(1, count.FAILURE) : count.FAILURE;
console.log(`${count.SUCCESS} passed, ${failed} failed`);
process.exit((values['trust-status'] ? endedBadly : failed > 0) ? 1 : 0);
