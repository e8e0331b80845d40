/**
 * A real daemon in a process of its own, for the tests of the client: started, killed, started again.
 *
 * Neighbours: `tests/web/test_client.py` says in `DISPATCH_TEST_PYTHON` which Python has the
 * package; the agents are those of `tests/e2e`.
 * Invariant: a process that was started here is ended here, by its id, and waited for.
 */

import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const PYTHON = process.env.DISPATCH_TEST_PYTHON ?? "";
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const POLL_MS = 10;

export class Daemon {
  #folder = "";
  #starts = 0;
  #port = 0;
  /** @type {import("node:child_process").ChildProcess | null} */
  #process = null;
  url = "";

  /** @param {string} config */
  static async start(config) {
    const daemon = new Daemon();
    daemon.#folder = await mkdtemp(join(tmpdir(), "dispatch-web-"));
    await writeFile(join(daemon.#folder, "dispatch.toml"), config);
    await daemon.start();
    return daemon;
  }

  /** On the port that it had before. */
  async start() {
    const ready = join(this.#folder, `ready-${++this.#starts}.json`);
    const environment = Object.entries(process.env).filter(([name]) => !name.startsWith("DISPATCH_"));
    const own = spawn(
      PYTHON,
      ["-m", "dispatch", "serve", "--port", String(this.#port), "--ready-file", ready,
        "--data", join(this.#folder, "data"), "--config", join(this.#folder, "dispatch.toml")],
      { cwd: ROOT, env: Object.fromEntries(environment), stdio: ["ignore", "ignore", "pipe"] },
    );
    let log = "";
    own.stderr.on("data", (piece) => (log += piece));
    this.#process = own;
    for (;;) {
      const told = await readFile(ready, "utf8").catch(() => "");
      if (told !== "") {
        this.url = JSON.parse(told).url;
        this.#port = Number(new URL(this.url).port);
        return;
      }
      if (own.exitCode !== null) throw new Error(`the daemon ended at once:\n${log}`);
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** kill -9 */
  async kill() {
    const own = this.#process;
    if (own === null || own.exitCode !== null || own.signalCode !== null) return;
    const ended = once(own, "exit");
    own.kill("SIGKILL");
    await ended;
  }

  async end() {
    await this.kill();
    await rm(this.#folder, { recursive: true });
  }
}

/** A configuration with agents of `tests/e2e/agents.py` and an echo; the first is the default. */
export function configuration(/** @type {string[]} */ ...names) {
  const tables = names.map((name) => {
    const steers = name === "steered" ? "steer = true\n" : "";
    return name === "echo"
      ? '[agents.echo]\nkind = "echo"\ndelay_ms = 2\n'
      : `[agents.${name}]\nkind = "python"\ntarget = "tests.e2e.agents:${name}"\npath = "${ROOT}"\n${steers}`;
  });
  return `default_agent = "${names[0]}"\n\n${tables.join("\n")}`;
}
