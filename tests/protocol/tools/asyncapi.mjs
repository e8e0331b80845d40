// Reads an AsyncAPI document as its own tools do; prints what is wrong with it, and fails if
// anything is: node asyncapi.mjs DOCUMENT. Run by `tests/protocol/test_tools.py`.
import { readFile } from "node:fs/promises";
import { Parser } from "@asyncapi/parser";

// The parser's degrees: what is below an error is advice.
const ERROR = 0;

const text = await readFile(process.argv[2], "utf8");
const { document, diagnostics } = await new Parser().parse(text);
const errors = diagnostics.filter(({ severity }) => severity === ERROR);
for (const { path, message } of errors) {
  console.log(`${path.join("/")}: ${message}`);
}
if (document !== undefined) {
  const operations = document.allOperations().all();
  console.log(`${operations.length} operations, ${document.allMessages().all().length} messages`);
}
process.exitCode = document === undefined || errors.length > 0 ? 1 : 0;
