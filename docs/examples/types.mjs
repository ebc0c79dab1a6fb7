import { writeFile } from "node:fs/promises";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const file = ts.factory.createTypeReferenceNode("Blob");
const types = await openapiTS(new URL(`${process.argv[2]}/openapi.json`), {
  defaultNonNullable: false, // a field with a default may be left out
  transform: (schema) => (schema.format === "binary" ? file : undefined),
});
await writeFile("gmn.d.ts", astToString(types));
