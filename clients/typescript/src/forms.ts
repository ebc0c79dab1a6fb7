/** What the fields of forms take, and how they are sent. */

/** A file: a `File`, a `Blob`, its bytes, or one of these under a name for messages. */
export type FormFile = Blob | Uint8Array | { data: Blob | Uint8Array; name: string };

/** The box of one person on a frame, in whole pixels; `x` and `y` are its top left corner. */
export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** A box of a sighting, with labels of its own. */
export interface SightedBox extends Box {
  camera?: string | undefined;
  /** RFC 3339, with time zone. */
  captured_at?: string | undefined;
  track?: string | undefined;
  /** Whether the person stays at the same place. */
  still?: boolean | undefined;
  /** The zone of the camera's picture in which the person stands. */
  zone?: string | undefined;
}

/** A box of an enrollment, with labels of its own. */
export interface LabelledBox extends SightedBox {
  identity?: string | undefined;
  external_id?: string | undefined;
  metadata?: { [name: string]: unknown } | undefined;
}

/** A JSON object of your own, or empty text for none. */
export type Metadata = { [name: string]: unknown } | "";

/** The numbers of a vector, or base64 of them as little-endian float32. */
export type Vector = number[] | string;

/** The version of each of these galleries. */
export interface Versions {
  [gallery: string]: number;
}

/** Return the form that sends these fields: lists as repeated fields, objects as JSON. */
export function toForm(fields: object): FormData {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    const values: unknown[] = Array.isArray(value) && !isVector(value) ? value : [value];
    for (const item of values) {
      append(form, name, item);
    }
  }
  return form;
}

function isVector(value: unknown[]): boolean {
  return typeof value[0] === "number";
}

function append(form: FormData, name: string, value: unknown): void {
  if (value === undefined) {
    return;
  }
  if (isFile(value)) {
    appendFile(form, name, value);
  } else if (typeof value === "object") {
    form.append(name, JSON.stringify(value));
  } else {
    form.append(name, String(value));
  }
}

function isFile(value: unknown): value is FormFile {
  if (isData(value)) {
    return true;
  }
  return typeof value === "object" && value !== null && "data" in value && isData(value.data);
}

function isData(value: unknown): value is Blob | Uint8Array {
  return value instanceof Blob || value instanceof Uint8Array;
}

function appendFile(form: FormData, field: string, file: FormFile): void {
  const data = isData(file) ? file : file.data;
  const name = "name" in file && file.name ? file.name : "image";
  // A `Blob` takes no bytes of shared memory, so they are copied.
  const blob = data instanceof Blob ? data : new Blob([new Uint8Array(data)]);
  form.append(field, blob, name);
}
