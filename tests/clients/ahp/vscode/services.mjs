// What VS Code's clients want of the window around them: a log, settings, trust.
//
// Neighbours: `client.mjs` hands them over. A window without settings, in which nothing is logged
// but what went wrong.
import { never } from "./listeners.mjs";

const say = (level) => (...words) => process.stderr.write(`${level} ${words.map(String).join(" ")}\n`);
const silent = () => {};

export const log = { trace: silent, debug: silent, info: silent, warn: say("warn"), error: say("error") };
export const resources = {};
export const settings = {
  onDidChangeConfiguration: never,
  getValue: () => undefined,
  inspect: () => ({}),
};
export const telemetry = { telemetryLevel: 0 };
export const trust = {
  onDidChangeTrustedFolders: never,
  onDidChangeTrust: never,
  getTrustedUris: () => [],
  isWorkspaceTrustEnabled: () => false,
};
