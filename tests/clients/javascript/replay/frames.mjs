// Holds a list of expected frames against frames as they come. An answer's text may come in any
// number of pieces, and the members of a group do not wait for each other.
//
// Neighbours: `compare` compares one frame; `transcript` says which come from where.
// Invariant: a frame that is not expected is found when it comes, not at the end.

import { Mismatch } from "./compare.mjs";

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

/** Where a frame's payload is: the key, or undefined for the frame itself. */
const payloadKey = (frame) => ["event", "data"].find((key) => isObject(frame[key]));
const payload = (frame) => frame[payloadKey(frame)] ?? frame;

/** The field of a piece's text, or undefined where the frame is no piece. */
function textKey(frame) {
  const { type, kind } = payload(frame);
  if (type === "text-delta" || type === "reasoning-delta") return "delta";
  return kind === "assistant_chunk" ? "text" : undefined;
}

const sameKind = (one, other) =>
  payload(one).type === payload(other).type && payload(one).kind === payload(other).kind;

function withText(frame, text) {
  const inner = { ...payload(frame), [textKey(frame)]: text };
  const key = payloadKey(frame);
  return key ? { ...frame, [key]: inner } : inner;
}

/** The number of a piece that is not the last of its run is nobody's business. */
function withoutNumber({ position, id, frameId, ...rest }) {
  return rest;
}

/** The frames of one member, or of none, in their order. */
class Lane {
  expected = [];
  #joined = "";

  take(frame, names) {
    const wanted = this.expected[0];
    const key = textKey(wanted);
    if (!key || !textKey(frame) || !sameKind(wanted, frame)) {
      names.match(wanted, frame);
      this.expected.shift();
      return;
    }
    const whole = payload(wanted)[key];
    this.#joined += payload(frame)[key];
    if (!whole.startsWith(this.#joined)) {
      throw new Mismatch(`text "${this.#joined}" is no beginning of "${whole}"`);
    }
    // Compared as if it had the whole text, which the last piece has.
    const last = this.#joined === whole;
    names.match(last ? wanted : withoutNumber(wanted), withText(frame, whole));
    if (last) {
      this.expected.shift();
      this.#joined = "";
    }
  }
}

/** What has to come; `take` throws a Mismatch for a frame that should not. */
export class Expected {
  #lanes = new Map();

  constructor(frames, names) {
    this.names = names;
    for (const frame of frames) {
      const member = payload(frame).familiarId;
      if (!this.#lanes.has(member)) this.#lanes.set(member, new Lane());
      this.#lanes.get(member).expected.push(frame);
    }
  }

  get missing() {
    return [...this.#lanes.values()].flatMap((lane) => lane.expected);
  }

  get complete() {
    return this.missing.length === 0;
  }

  take(frame) {
    const lane = this.#lanes.get(payload(frame).familiarId);
    const came = JSON.stringify(frame).slice(0, 400);
    if (!lane?.expected.length) throw new Mismatch(`not expected: ${came}`);
    try {
      lane.take(frame, this.names);
    } catch (wrong) {
      if (!(wrong instanceof Mismatch)) throw wrong;
      const wanted = JSON.stringify(lane.expected[0]).slice(0, 400);
      throw new Mismatch(`${wrong.message}\n    came     ${came}\n    expected ${wanted}`);
    }
  }
}
