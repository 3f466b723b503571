// @ts-check
// The numbers of a vector, out of its bytes.

const SIZES = { bfloat16: 2, float16: 2, float32: 4 };

/**
 * @param {ArrayBuffer} bytes little-endian
 * @param {string} dtype bfloat16, float16 or float32
 * @returns {number[]}
 */
export function numbersOf(bytes, dtype) {
  const size = SIZES[/** @type {keyof typeof SIZES} */ (dtype)];
  if (size === undefined) throw new Error(`This page knows no numbers of the type ${dtype}.`);
  const view = new DataView(bytes);
  return Array.from({ length: bytes.byteLength / size }, (_, at) => {
    if (dtype === "float32") return view.getFloat32(at * 4, true);
    const bits = view.getUint16(at * 2, true);
    return dtype === "float16" ? halfOf(bits) : upperHalf(bits);
  });
}

/** A bfloat16 is the upper half of a float32. @param {number} bits */
function upperHalf(bits) {
  const view = new DataView(new ArrayBuffer(4));
  view.setUint16(0, bits);
  return view.getFloat32(0);
}

/** IEEE 754 binary16. @param {number} bits */
function halfOf(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Infinity;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The length of a vector. @param {number[]} vector */
export function norm(vector) {
  return Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
}
