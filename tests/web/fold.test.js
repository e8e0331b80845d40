/** The fold: the chunks of a turn depend on its events alone, and are those of the daemon. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import fc from "fast-check";
import { Fold } from "../../dispatch/web/client/fold.js";

const text = fc.string({ unit: "grapheme", maxLength: 5 });
const tool = { toolCallId: fc.constantFrom("a", "b"), toolName: text, stepId: fc.option(text, { nil: undefined }) };
const event = fc.oneof(
  fc.record({ type: fc.constantFrom("text-delta", "reasoning-delta"), delta: text }),
  fc.record({ type: fc.constant("tool-call"), input: fc.jsonValue(), ...tool }),
  fc.record({ type: fc.constant("tool-result"), content: text, isError: fc.boolean(), ...tool }),
  fc.record({ type: fc.constantFrom("step-complete", "turn-start", "usage", "done") }),
  fc.record({ type: fc.constant("steering"), text }),
  fc.record({ type: fc.constant("error"), message: text }),
);

/** @param {any[]} events */
function folded(events) {
  const fold = new Fold();
  events.forEach((one) => fold.add(one));
  return fold.lines;
}

test("adjacent deltas may be merged or cut without a difference", () => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 30 }), (events) => {
      const cut = events.flatMap((one) => {
        return "delta" in one ? [...one.delta].map((delta) => ({ ...one, delta })) : [one];
      });
      assert.deepEqual(folded(cut), folded(events));
    }),
  );
});

test("what was handed out does not change when more is said", () => {
  fc.assert(
    fc.property(fc.array(event, { maxLength: 30 }), (events) => {
      const fold = new Fold();
      for (const one of events) {
        const before = [...fold.lines];
        const copy = structuredClone(before);
        fold.add(/** @type {any} */ (one));
        assert.deepEqual(before, copy);
      }
    }),
  );
});

test("every history has the chunks that the daemon keeps of it", async () => {
  const file = process.env.DISPATCH_TEST_HISTORIES;
  assert.ok(file, "tests/web/test_client.py writes the histories that the daemon folded");
  const histories = JSON.parse(await readFile(file, "utf8"));
  assert.ok(histories.length >= 500);
  for (const { events, lines } of histories) assert.deepEqual(folded(events), lines);
});
