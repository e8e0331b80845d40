/**
 * Watches a page from inside, from before its first line: what blocked it, what its policy refused.
 *
 * Neighbours: `device.py` puts it into every page of the tests and reads `witness` there.
 * Invariant: it changes nothing that the page can see but this one name.
 */

window.witness = { longTasks: [], violations: [] };

new PerformanceObserver((list) => {
  for (const { startTime, duration } of list.getEntries()) {
    window.witness.longTasks.push({ startTime, duration });
  }
}).observe({ type: "longtask", buffered: true });

addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI, sample }) => {
  window.witness.violations.push(`${effectiveDirective} ${blockedURI} ${sample}`);
});
