// Writes src/openapi.ts, the types of all calls, from openapi.json, the service's OpenAPI document.
// Fields of forms get the types of src/forms.ts, where the document knows only files and texts.
import { readFile, writeFile } from "node:fs/promises";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const TYPES_OF_FIELDS = {
  boxes: "Box",
  metadata: "Metadata",
  new_metadata: "Metadata",
  vector: "Vector",
  min_versions: "Versions",
  "EnrollForm/boxes": "LabelledBox",
  "SightingForm/boxes": "SightedBox",
};
const IMPORTED = ["FormFile", ...new Set(Object.values(TYPES_OF_FIELDS))];

const document = JSON.parse(await readFile(new URL("openapi.json", import.meta.url), "utf8"));
const { schemas } = document.components;
const forms = new Set();
for (const calls of Object.values(document.paths))
  for (const call of Object.values(calls))
    for (const body of Object.values(call.requestBody?.content ?? {}))
      forms.add(body.schema.$ref.split("/").at(-1));

// "Or any text" would make the listed types of problems a plain string.
const problemType = schemas.Problem.properties.type;
problemType.anyOf = problemType.anyOf.filter((type) => type.enum);

function typeOfField(schema, { path }) {
  if (schema.format === "binary") return "FormFile";
  const [form, field] = path.split("/").slice(-2);
  if (schema.type !== "string" || !forms.has(form)) return undefined;
  return TYPES_OF_FIELDS[`${form}/${field}`] ?? TYPES_OF_FIELDS[field];
}

const types = await openapiTS(document, {
  defaultNonNullable: false, // A field with a default may be left out.
  inject: `import type { ${IMPORTED.join(", ")} } from "./forms.js";\n`,
  transform(schema, options) {
    const name = typeOfField(schema, options);
    return name && ts.factory.createTypeReferenceNode(name);
  },
});
await writeFile(new URL("src/openapi.ts", import.meta.url), astToString(types));
