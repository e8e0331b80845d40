// Where the parts of VS Code's AHP client are in the packages that carry it, and how Node loads them.
//
// Neighbours: `fold.mjs` wants the reducers, `client.mjs` the client. The packages are VS Code's
// sources as modules, for browsers: a style sheet that is imported is nothing here.
import { existsSync } from "node:fs";
import { registerHooks } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

registerHooks({
  resolve(specifier, context, next) {
    if (!specifier.endsWith(".css")) return next(specifier, context);
    return { url: "data:text/javascript,", format: "module", shortCircuit: true };
  },
});

const PACKAGES = ["monaco-vscode-chat-service-override", "monaco-vscode-api"];

/** A module of VS Code, `name` from its folder `vs`, in whichever of the packages has it. */
export async function vscode(packages, name) {
  const files = PACKAGES.map((one) => path.join(packages, "@codingame", one, "vscode/src/vs", name));
  const file = files.find((one) => existsSync(one));
  if (file === undefined) throw new Error(`no package has ${name}`);
  return import(pathToFileURL(file).href);
}
