// What came against what a transcript says: names, words, text in pieces, members apart.
//
// Neighbours: replay.mjs reads what comes. Source: protocol/fixtures/README.md, Comparing.
// Invariant: what differs throws `Differs`.

export class Differs extends Error {}

const NAME = /\$(?:\{([a-z]+[0-9]*)\}|([a-z]+[0-9]*))/g;
const WHOLE = /^\$(?:\{([a-z]+[0-9]+)\}|([a-z]+[0-9]+))$/;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const PIECES = { "text-delta": "delta", "reasoning-delta": "delta", assistant_chunk: "text" };
const NUMBERS = ["position", "id", "frameId"];

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const kindOf = (name) => name.replace(/[0-9]+$/, "");
const shown = (value) => JSON.stringify(value)?.slice(0, 300);

const WORDS = {
  $any: () => true,
  $time: (value) => typeof value === "string" && TIME.test(value),
  $ms: (value) => Number.isInteger(value) && value > 1e12,
  $duration: (value) => typeof value === "number" && value >= 0,
  $count: (value) => Number.isInteger(value) && value >= 0,
  $id: (value) => Number.isInteger(value),
  $cursor: (value) => Number.isInteger(value),
};

/** What the names of a transcript stand for. */
export class Names {
  values = new Map();

  /** What a client sends. */
  fill(value) {
    if (Array.isArray(value)) return value.map((item) => this.fill(item));
    if (isObject(value)) {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, this.fill(item)]));
    }
    if (typeof value !== "string") return value;
    return value.replace(NAME, (_, braced, bare) => this.#own(braced ?? bare));
  }

  /** Compare; names are bound if it is so. */
  matches(wanted, came) {
    const before = new Map(this.values);
    try {
      this.match(wanted, came);
      return true;
    } catch (error) {
      if (!(error instanceof Differs)) throw error;
      this.values = before;
      return false;
    }
  }

  /** Compare; throws `Differs`. */
  match(wanted, came) {
    if (typeof wanted === "string" && Object.hasOwn(WORDS, wanted)) {
      if (!WORDS[wanted](came)) throw new Differs(`expected ${wanted}, got ${shown(came)}`);
      if (wanted === "$cursor") this.values.set("cursor", String(came));
    } else if (typeof wanted === "string") {
      this.#matchText(wanted, came);
    } else if (Array.isArray(wanted) && Array.isArray(came)) {
      this.#matchItems(wanted, came);
    } else if (isObject(wanted) && isObject(came)) {
      for (const key of Object.keys(wanted)) this.#matchField(wanted, came, key);
    } else if (wanted !== came) {
      throw new Differs(`expected ${shown(wanted)}, got ${shown(came)}`);
    }
  }

  #own(name) {
    if (!this.values.has(name)) this.values.set(name, `mine-${crypto.randomUUID()}`);
    return this.values.get(name);
  }

  #matchField(wanted, came, key) {
    const value = wanted[key];
    const isForPeople = ["message", "error"].includes(key) && "code" in wanted;
    if (value === "$absent") {
      if (key in came) throw new Differs(`${key} is there`);
    } else if (!(key in came)) {
      throw new Differs(`no ${key} in ${shown(came)}`);
    } else if (isForPeople && typeof value === "string") {
      if (typeof came[key] !== "string") throw new Differs(`${key} is no text`);
    } else {
      this.match(value, came[key]);
    }
  }

  #matchItems(wanted, came) {
    const isOpen = wanted.at(-1) === "$others";
    const items = isOpen ? wanted.slice(0, -1) : wanted;
    if (came.length < items.length || (came.length > items.length && !isOpen)) {
      throw new Differs(`expected ${items.length} items, got ${shown(came)}`);
    }
    items.forEach((item, index) => this.match(item, came[index]));
    const known = new Set(this.values.values());
    if (came.slice(items.length).some((item) => known.has(item?.id))) {
      throw new Differs(`one of ours in ${shown(came)}`);
    }
  }

  #matchText(wanted, came) {
    const whole = WHOLE.exec(wanted);
    const name = whole?.[1] ?? whole?.[2];
    if (name !== undefined && !this.values.has(name)) {
      const same = [...this.values].some(
        ([other, value]) => value === came && kindOf(other) === kindOf(name),
      );
      if (typeof came !== "string" || came === "" || same) {
        throw new Differs(`expected a new ${wanted}, got ${shown(came)}`);
      }
      this.values.set(name, came);
      return;
    }
    const known = wanted.replace(NAME, (text, braced, bare) => {
      return this.values.get(braced ?? bare) ?? text;
    });
    if (known !== came) throw new Differs(`expected ${known}, got ${shown(came)}`);
  }
}

const payloadKey = (frame) => ["event", "data"].find((key) => isObject(frame[key]));
const payload = (frame) => frame[payloadKey(frame)] ?? frame;

/** Which piece of text a frame is, if it is one. */
function piece(frame) {
  const inner = payload(frame);
  const kind = inner.kind === "assistant_chunk" ? inner.kind : inner.type;
  return typeof inner[PIECES[kind]] === "string" ? kind : undefined;
}

function withText(frame, text) {
  const key = payloadKey(frame);
  const changed = { ...payload(frame), [PIECES[piece(frame)]]: text };
  return key === undefined ? changed : { ...frame, [key]: changed };
}

/** The frames that are to come on a stream. */
export class Frames {
  #names;
  #lanes = new Map();
  #joined = new Map();

  constructor(names, frames) {
    this.#names = names;
    for (const frame of frames) {
      const lane = payload(frame).familiarId;
      this.#lanes.set(lane, [...(this.#lanes.get(lane) ?? []), frame]);
    }
  }

  /** Whether every one came. */
  get areAll() {
    return [...this.#lanes.values()].every((waiting) => waiting.length === 0);
  }

  /** One frame that came. */
  take(frame) {
    const lane = payload(frame).familiarId;
    const [wanted] = this.#lanes.get(lane) ?? [];
    if (wanted === undefined) throw new Differs(`nothing was to come, but ${shown(frame)}`);
    const kind = piece(wanted);
    if (kind !== undefined && kind === piece(frame)) {
      const [text, said] = [payload(wanted)[PIECES[kind]], payload(frame)[PIECES[kind]]];
      const joined = (this.#joined.get(lane) ?? "") + said;
      if (!text.startsWith(joined)) throw new Differs(`expected ${text}, got ${joined}`);
      if (joined !== text) {
        this.#joined.set(lane, joined);
        const freed = Object.entries(wanted).map(([key, value]) => {
          return [key, NUMBERS.includes(key) ? "$any" : value];
        });
        this.#names.match(withText(Object.fromEntries(freed), said), frame);
        return;
      }
      this.#joined.delete(lane);
      frame = withText(frame, joined);
    }
    this.#names.match(wanted, frame);
    this.#lanes.get(lane).shift();
  }
}
