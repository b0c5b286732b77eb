// Reads a folder: *.asyncapi.json by AsyncAPI's own parser, *.manifest.json by the JSON Schema in manifest.schema.json.
// A file whose name begins with "broken" has to be refused, so that a check that accepts everything is seen.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Parser } from "@asyncapi/parser";
import Ajv from "ajv/dist/2020.js";

const folder = process.argv[2];
const read = (name) => readFileSync(join(folder, name), "utf8");
const ajv = new Ajv({ allErrors: true, formats: { uint32: true, uint64: true } });
const validate = ajv.compile(JSON.parse(read("manifest.schema.json")));
const parser = new Parser();

async function problems(name) {
  if (name.endsWith(".manifest.json")) {
    return validate(JSON.parse(read(name))) ? [] : validate.errors.map((e) => `${e.instancePath} ${e.message}`);
  }
  const { document, diagnostics } = await parser.parse(read(name));
  const errors = diagnostics.filter((d) => d.severity === 0).map((d) => `${d.path.join(".")}: ${d.message}`);
  return document || errors.length > 0 ? errors : ["no document came of it"];
}

let failed = false;
for (const name of readdirSync(folder).sort()) {
  if (!name.endsWith(".asyncapi.json") && !name.endsWith(".manifest.json")) continue;
  const found = await problems(name);
  const expected = name.startsWith("broken") ? found.length > 0 : found.length === 0;
  failed ||= !expected;
  console.log(`${expected ? "ok" : "NOT AS EXPECTED"} ${name}${found.map((problem) => `\n  ${problem}`).join("")}`);
}
process.exit(failed ? 1 : 0);
