// Compares what a transcript expects with what came, and remembers the names in it.
//
// Neighbours: `frames` holds lists of frames against it; `transcript` has the names.
// Invariant: a name has one value, and two names of the same letters have two.

import { randomUUID } from "node:crypto";

const NAME = /\$\{([A-Za-z]+[0-9]*)\}|\$([A-Za-z]+[0-9]*)/g;
const ALONE = /^(?:\$\{([A-Za-z]+[0-9]*)\}|\$([A-Za-z]+[0-9]*))$/;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

/** What came is not what the transcript has. */
export class Mismatch extends Error {}

const isCount = (value) => Number.isInteger(value) && value >= 0;

const WORDS = {
  $any: () => true,
  $time: (value) => typeof value === "string" && TIME.test(value),
  $ms: isCount,
  $duration: (value) => typeof value === "number" && value >= 0,
  $count: isCount,
  $id: Number.isInteger,
  $cursor: Number.isInteger,
};

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const letters = (name) => name.replace(/[0-9]*$/, "");
const shown = (value) => JSON.stringify(value)?.slice(0, 300);

/** The values of one transcript's names. */
export class Names {
  constructor(values = new Map()) {
    this.values = values;
  }

  copy() {
    return new Names(new Map(this.values));
  }

  /** What a client sends: names without a value are made up. */
  filled(value) {
    if (typeof value === "string") {
      return value.replace(NAME, (_, braced, plain) => {
        const name = braced ?? plain;
        if (!this.values.has(name)) this.values.set(name, `${name}-${randomUUID()}`);
        return this.values.get(name);
      });
    }
    if (Array.isArray(value)) return value.map((item) => this.filled(item));
    if (!isObject(value)) return value;
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, this.filled(item)]));
  }

  /** Throws a Mismatch, or gives names their values. */
  match(expected, came, where = "") {
    if (typeof expected === "string") this.#matchText(expected, came, where);
    else if (Array.isArray(expected)) this.#matchArray(expected, came, where);
    else if (isObject(expected)) this.#matchObject(expected, came, where);
    else if (expected !== came) {
      throw new Mismatch(`${where}: ${shown(came)} instead of ${shown(expected)}`);
    }
  }

  #matchText(expected, came, where) {
    if (Object.hasOwn(WORDS, expected)) {
      if (!WORDS[expected](came)) throw new Mismatch(`${where}: ${shown(came)} is no ${expected}`);
      if (expected === "$cursor") this.values.set("cursor", came);
      return;
    }
    const alone = ALONE.exec(expected);
    const name = alone && (alone[1] ?? alone[2]);
    if (name && !this.values.has(name)) {
      this.#bind(name, came, where);
      return;
    }
    const wanted = expected.replace(NAME, (_, braced, plain) => {
      const known = braced ?? plain;
      if (!this.values.has(known)) throw new Mismatch(`${where}: $${known} has no value yet`);
      return this.values.get(known);
    });
    if (came !== wanted) {
      throw new Mismatch(`${where}: ${shown(came)} instead of ${shown(wanted)} (${expected})`);
    }
  }

  #bind(name, came, where) {
    if (typeof came !== "string" || came === "") {
      throw new Mismatch(`${where}: ${shown(came)} cannot be $${name}`);
    }
    for (const [other, value] of this.values) {
      if (value === came && letters(other) === letters(name)) {
        throw new Mismatch(`${where}: ${shown(came)} is $${other} already, not $${name}`);
      }
    }
    this.values.set(name, came);
  }

  #matchObject(expected, came, where) {
    if (!isObject(came)) throw new Mismatch(`${where}: ${shown(came)} is no object`);
    for (const [key, value] of Object.entries(expected)) {
      const here = `${where}.${key}`;
      if (value === "$absent") {
        if (Object.hasOwn(came, key)) throw new Mismatch(`${here}: should not be there`);
      } else if (!Object.hasOwn(came, key)) {
        throw new Mismatch(`${here}: missing in ${shown(came)}`);
      } else if (isForPeople(expected, key)) {
        if (typeof came[key] !== "string") throw new Mismatch(`${here}: is no string`);
      } else {
        this.match(value, came[key], here);
      }
    }
  }

  #matchArray(expected, came, where) {
    if (!Array.isArray(came)) throw new Mismatch(`${where}: ${shown(came)} is no array`);
    const open = expected.at(-1) === "$others";
    const wanted = open ? expected.slice(0, -1) : expected;
    if (open ? came.length < wanted.length : came.length !== wanted.length) {
      throw new Mismatch(`${where}: ${came.length} items instead of ${wanted.length}`);
    }
    wanted.forEach((item, index) => this.match(item, came[index], `${where}[${index}]`));
    const known = new Set(this.values.values());
    for (const item of came.slice(wanted.length)) {
      if (isObject(item) && known.has(item.id)) {
        throw new Mismatch(`${where}: ${shown(item.id)} is not one of the others`);
      }
    }
  }
}

/** Words for people: any string will do. */
function isForPeople(expected, key) {
  return (
    (key === "message" || key === "error") &&
    typeof expected[key] === "string" &&
    Object.hasOwn(expected, "code")
  );
}
