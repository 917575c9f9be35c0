// What is packed into this file becomes bytes again: characters -> a .lzma file -> its content.
// Two characters hold 13 bits, as helpers/publish/explorer_page.py writes them.
function bytesOf(text) {
  const out = new Uint8Array(Math.floor(13 * text.length / 16)), digit = (i) => (text[i] === "!" ? 60 : text.charCodeAt(i)) - 35;
  let held = 0, bits = 0, at = 0;
  for (let i = 0; i < text.length; i += 2) {
    held = held << 13 | 91 * digit(i) + digit(i + 1);
    for (bits += 13; bits >= 8; held &= (1 << bits) - 1) out[at++] = held >> (bits -= 8);
  }
  return out;
}

// LZMA as in the specification by Igor Pavlov (lzma-specification.txt, public domain); its names, one stream, end marker.
function unlzma(source) {
  const lc = source[0] % 9, lp = Math.floor(source[0] / 9) % 5, pb = Math.floor(source[0] / 45);
  let out = new Uint8Array(1 << 24), at = 0, next = 18, state = 0, reps = [0, 0, 0, 0];
  const coder = Uint32Array.of(2 ** 32 - 1, source.slice(14, 18).reduce((sum, byte) => 256 * sum + byte, 0)); // range, code
  const models = (n) => new Uint16Array(n).fill(1024);
  const literals = models(0x300 << lc + lp), isMatch = models(192), isRep0Long = models(192), slots = models(256);
  const [isRep, isRepG0, isRepG1, isRepG2] = [12, 12, 12, 12].map(models), distances = models(115), align = models(16);
  const lengths = () => ({ choice: models(2), low: models(128), mid: models(128), high: models(256) });
  const matchLengths = lengths(), repLengths = lengths();

  const refill = () => { if (coder[0] < 2 ** 24) { coder[0] *= 256; coder[1] = 256 * coder[1] + source[next++]; } };
  function bit(model, i) {
    const bound = (coder[0] >>> 11) * model[i], one = coder[1] >= bound ? 1 : 0;
    if (one) { coder[0] -= bound; coder[1] -= bound; model[i] -= model[i] >> 5; } else { coder[0] = bound; model[i] += 2048 - model[i] >> 5; }
    refill();
    return one;
  }
  function tree(model, bits, base = 0) {
    let node = 1;
    for (let i = 0; i < bits; i++) node = 2 * node + bit(model, base + node);
    return node - (1 << bits);
  }
  function reverseTree(model, bits, base = 0) {
    let node = 1, value = 0;
    for (let i = 0; i < bits; i++) { const found = bit(model, base + node); node = 2 * node + found; value += found << i; }
    return value;
  }
  function direct(bits) {
    let value = 0;
    for (let i = 0; i < bits; i++) {
      coder[0] = Math.floor(coder[0] / 2);
      const one = coder[1] >= coder[0] ? 1 : 0;
      coder[1] -= one * coder[0];
      value = 2 * value + one;
      refill();
    }
    return value;
  }
  function length(model, place) {
    if (!bit(model.choice, 0)) return 2 + tree(model.low, 3, place << 3);
    return bit(model.choice, 1) ? 18 + tree(model.high, 8) : 10 + tree(model.mid, 3, place << 3);
  }
  function distance(size) {
    const slot = tree(slots, 6, Math.min(size - 2, 3) << 6), bits = (slot >> 1) - 1;
    if (slot < 4) return slot;
    const start = (2 + slot % 2) * 2 ** bits;
    return start + (slot < 14 ? reverseTree(distances, bits, start - slot) : 16 * direct(bits - 4) + reverseTree(align, 4));
  }
  function write(byte) {
    if (at === out.length) { const larger = new Uint8Array(2 * at); larger.set(out); out = larger; }
    out[at++] = byte;
  }
  function literal() {
    const before = at ? out[at - 1] : 0, base = 0x300 * ((at % (1 << lp) << lc) + (before >> 8 - lc));
    let symbol = 1;
    if (state >= 7) {
      for (let match = out[at - reps[0] - 1], same = true; same && symbol < 256; match <<= 1) {
        const expected = match >> 7 & 1, found = bit(literals, base + (1 + expected << 8) + symbol);
        symbol = 2 * symbol + found;
        same = found === expected;
      }
    }
    while (symbol < 256) symbol = 2 * symbol + bit(literals, base + symbol);
    write(symbol - 256);
    state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
  }
  for (;;) {
    const place = at % (1 << pb);
    if (!bit(isMatch, 16 * state + place)) { literal(); continue; }
    let size = 1;
    if (!bit(isRep, state)) {
      size = length(matchLengths, place);
      reps = [distance(size), reps[0], reps[1], reps[2]];
      if (reps[0] === 2 ** 32 - 1) return out.subarray(0, at); // the end marker
      state = state < 7 ? 7 : 10;
    } else {
      const which = !bit(isRepG0, state) ? 0 : !bit(isRepG1, state) ? 1 : 2 + bit(isRepG2, state);
      if (which === 0 && !bit(isRep0Long, 16 * state + place)) {
        state = state < 7 ? 9 : 11;
      } else {
        reps = [reps[which], ...reps.filter((_, i) => i !== which)];
        size = length(repLengths, place);
        state = state < 7 ? 8 : 11;
      }
    }
    for (; size > 0; size--) write(out[at - reps[0] - 1]);
  }
}
