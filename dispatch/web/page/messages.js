/**
 * Rows as messages: who spoke, in which parts; pure.
 *
 * Neighbours: `conversation` makes the messages of its snapshot with it, `parts` shows them.
 * Invariant: a message has the same key and the same chunks while its turn runs and once it is
 * sealed, so nothing is drawn again at the seal.
 */

/** @typedef {import("../frames.js").Line} Line */
/** @typedef {Line["chunk"]} Chunk */
/** @typedef {Chunk & {type: "tool-call"}} Call */
/** @typedef {Chunk & {type: "tool-result"}} Result */

/**
 * @typedef {{key: string} & (
 *   {type: "text" | "thinking" | "system", text: string}
 *   | {type: "image", url: string}
 *   | {type: "tool", call: Call | null, result: Result | null}
 *   | {type: "error", message: string, code: string | null})} Part
 */

/**
 * @typedef {object} Message
 * @property {string} key
 * @property {number} seq of its first row
 * @property {"user" | "agent" | "system"} kind
 * @property {readonly Part[]} parts
 * @property {readonly Chunk[]} chunks what it is made of: the same ones are the same message
 */

/** @param {Line} line @returns {Message["kind"]} */
function kindOf({ role, chunk }) {
  if (role === "user") return "user";
  return role === "system" || chunk.type === "system" ? "system" : "agent";
}

/** @param {string} key @param {Chunk} chunk @returns {Part} */
function partOf(key, chunk) {
  switch (chunk.type) {
    case "tool-call":
      return { key, type: "tool", call: chunk, result: null };
    case "tool-result":
      return { key, type: "tool", call: null, result: chunk };
    case "error":
      return { key, type: "error", message: chunk.message, code: chunk.code ?? null };
    case "image":
      return { key, type: "image", url: chunk.url };
    default:
      return { key, type: chunk.type, text: chunk.text };
  }
}

/**
 * Messages of rows, or of lines whose first will have `firstSeq`. A person's message is a text and
 * its pictures, an agent's everything up to the next one of a person.
 * @param {readonly (Line & {seq?: number})[]} lines
 * @param {number} firstSeq
 * @returns {Message[]}
 */
export function messagesOf(lines, firstSeq) {
  /** @type {(Message & {parts: Part[], chunks: Chunk[]})[]} */
  const messages = [];
  lines.forEach((line, i) => {
    const { chunk, seq = firstSeq + i } = line;
    const key = String(seq);
    const kind = kindOf(line);
    let open = messages.at(-1);
    if (open?.kind !== kind || (kind === "user" && chunk.type !== "image")) {
      open = { key, seq, kind, parts: [], chunks: [] };
      messages.push(open);
    }
    open.chunks.push(chunk);
    const { parts } = open;
    const at = chunk.type === "tool-result" ? parts.findLastIndex((part) => answers(chunk, part)) : -1;
    const part = parts[at];
    if (part?.type === "tool") parts[at] = { ...part, result: /** @type {Result} */ (chunk) };
    else parts.push(partOf(key, chunk));
  });
  return messages;
}

/** @param {Result} result @param {Part} part */
function answers(result, part) {
  return part.type === "tool" && part.call?.toolCallId === result.toolCallId && part.result === null;
}
