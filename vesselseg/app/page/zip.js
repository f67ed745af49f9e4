// A zip file without compression (pictures are compressed already), and a table as CSV.

const CRC = Uint32Array.from({ length: 256 }, (_, i) => {
  for (let bit = 0; bit < 8; bit++) i = i & 1 ? 0xedb88320 ^ (i >>> 1) : i >>> 1;
  return i;
});

function crc32(bytes) {
  let value = -1;
  for (const byte of bytes) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

/** Numbers, each [bytes, value], little-endian. */
function pack(...numbers) {
  const bytes = numbers.flatMap(([size, value]) =>
    Array.from({ length: size }, (_, i) => Math.floor(value / 256 ** i) & 255),
  );
  return Uint8Array.from(bytes);
}

/** A zip file of {name, bytes} (APPNOTE.TXT of PKWARE, 4.3). */
export function makeZip(files) {
  const now = new Date();
  const time = (now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1);
  const date = ((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate();
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, bytes } of files) {
    const label = new TextEncoder().encode(name);
    const size = bytes.length;
    // Version 2.0, names in UTF-8, not compressed.
    const common = pack([2, 20], [2, 0x0800], [2, 0], [2, time], [2, date], [4, crc32(bytes)],
      [4, size], [4, size], [2, label.length], [2, 0]); // prettier-ignore
    parts.push(pack([4, 0x04034b50]), common, label, bytes);
    directory.push(pack([4, 0x02014b50], [2, 20]), common, pack([2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), label);
    offset += 30 + label.length + size;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const count = files.length;
  const end = pack([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, length], [4, offset], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Rows as the library's tables have them: input and error first, nothing for null. */
export function toCsv(rows) {
  const columns = [...new Set(["input", "error", ...rows.flatMap(Object.keys)])];
  const cell = (value) => {
    const text = typeof value === "string" ? value : value == null ? "" : JSON.stringify(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = rows.map((row) => columns.map((name) => cell(row[name])));
  return [columns, ...lines].map((line) => `${line.join(",")}\n`).join("");
}

export function toJsonLines(rows) {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}
