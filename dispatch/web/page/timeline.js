/**
 * A turn as a picture: a bar for each step, with the time to its first word and its tools.
 *
 * Neighbours: `panel` shows it; the client's `turn` has the steps, on this device's steady clock.
 * Invariant: bars are to scale; what a screen reader gets says the same in words.
 */

import { html, svg } from "./lit.js";

/** @typedef {import("../client.js").Turn} Turn */

const WIDTH = 300;
const ROW = 30;
const TOP = 6;

/** @param {number} ms */
const seconds = (ms) => `${(ms / 1_000).toFixed(1)} s`;

/** @param {Turn} turn */
export function timeline({ steps, startedMs, endedMs, lines }) {
  const now = performance.now();
  const isOver = endedMs !== null;
  const end = endedMs ?? now;
  const scale = WIDTH / Math.max(1_000, end - startedMs);
  const height = TOP + Math.max(1, steps.length) * ROW;
  const names = new Map(lines.flatMap(({ chunk }) => {
    return chunk.type === "tool-call" ? [[chunk.toolCallId, chunk.toolName]] : [];
  }));
  const words = steps.map((step, i) => `step ${i + 1}: ${factsOf(step, now, names).join(", ")}`);
  return html`<svg class="timeline" data-role="timeline" viewBox="0 0 ${WIDTH} ${height}" role="img"
      aria-label="${steps.length === 0 ? "No step yet" : words.join("; ")}">
      ${steps.map((step, i) => bar(step, i, { startedMs, now, scale, names }))}
    </svg>
    <p class="panel-note">${isOver ? "Took" : "Runs for"} ${seconds(end - startedMs)}${total(steps)}</p>`;
}

/**
 * @param {Turn["steps"][number]} step
 * @param {number} i
 * @param {{startedMs: number, now: number, scale: number, names: Map<string, string>}} place
 */
function bar(step, i, { startedMs, now, scale, names }) {
  const { startedMs: from, endedMs, told } = step;
  const x = (from - startedMs) * scale;
  const width = Math.max(3, ((endedMs ?? now) - from) * scale);
  const y = TOP + i * ROW;
  const first = Math.min(width, (told?.ttftMs ?? 0) * scale);
  return svg`<g class=${endedMs === null ? "open" : "over"}>
    <rect x=${x} y=${y + 13} width=${width} height="9" rx="3"/>
    <rect class="first" x=${x} y=${y + 13} width=${first} height="9" rx="3"/>
    <text x=${Math.min(x, WIDTH - 120)} y=${y + 9}>${factsOf(step, now, names).join(" · ")}</text></g>`;
}

/**
 * How long a step took, what it wrote and which tools it used.
 * @param {Turn["steps"][number]} step
 * @param {number} now
 * @param {Map<string, string>} names of tools by call
 */
function factsOf({ startedMs, endedMs, usage, toolCallIds }, now, names) {
  const tools = toolCallIds.map((id) => names.get(id) ?? "tool").join(", ");
  const tokens = usage ? `${usage.outputTokens} tokens` : "";
  return [seconds((endedMs ?? now) - startedMs), tokens, tools].filter((fact) => fact !== "");
}

/** @param {Turn["steps"]} steps */
function total(steps) {
  const read = steps.reduce((sum, { usage }) => sum + (usage?.inputTokens ?? 0), 0);
  const said = steps.reduce((sum, { usage }) => sum + (usage?.outputTokens ?? 0), 0);
  return read + said === 0 ? "" : `, ${read.toLocaleString("en")} tokens read, ${said.toLocaleString("en")} written`;
}
