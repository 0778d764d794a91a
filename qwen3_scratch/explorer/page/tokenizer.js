"use strict";
// Text <-> token ids by byte-pair encoding, as the library `tokenizers` does it for Qwen's files.

// What Qwen's pattern calls white space, which JavaScript's \s is not: U+0085 is, U+FEFF is none.
const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
/** Where a text is cut before any merge: contractions, words, single digits, signs, line breaks, spaces. */
const WORDS = new RegExp(
  "'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])" +
    "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+" +
    "|\\p{N}" +
    `| ?[^${SPACE}\\p{L}\\p{N}]+[\\r\\n]*` +
    `|[${SPACE}]*[\\r\\n]+` +
    `|[${SPACE}]+(?![^${SPACE}])` +
    `|[${SPACE}]+`,
  "gu",
);

/** The printable stand-in for each byte: printable Latin-1 for itself, the rest from U+0100 on in order. */
function byteAlphabet() {
  const printable = (byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let others = 0;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : 256 + others++));
}
const CHARACTER_OF = byteAlphabet();
const BYTE_OF = new Map(CHARACTER_OF.map((character, byte) => [character, byte]));

/** The bytes of a text in UTF-8. */
function utf8Bytes(text) {
  const bytes = [];
  for (const character of text) {
    const code = character.codePointAt(0);
    if (code < 0x80) bytes.push(code);
    else {
      const more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      bytes.push(((0xff00 >> (more + 1)) & 0xff) | (code >> (6 * more)));
      for (let i = more - 1; i >= 0; i--) bytes.push(0x80 | ((code >> (6 * i)) & 0x3f));
    }
  }
  return bytes;
}

/** Bytes -> {text, rest}: what is no UTF-8 becomes U+FFFD; `rest` are bytes at the end that may become a character. */
function utf8Text(bytes) {
  let text = "";
  let i = 0;
  while (i < bytes.length) {
    const lead = bytes[i];
    const more = lead < 0x80 ? 0 : lead < 0xc2 ? -1 : lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : lead < 0xf5 ? 3 : -1;
    // The second byte is bounded further: no overlong form, no surrogate, nothing above U+10FFFF.
    const least = lead === 0xe0 ? 0xa0 : lead === 0xf0 ? 0x90 : 0x80;
    const most = lead === 0xed ? 0x9f : lead === 0xf4 ? 0x8f : 0xbf;
    let taken = 1;
    const fits = (byte) => (taken === 1 ? byte >= least && byte <= most : byte >= 0x80 && byte <= 0xbf);
    while (taken <= more && i + taken < bytes.length && fits(bytes[i + taken])) taken++;
    if (taken <= more && i + taken === bytes.length) return { text, rest: bytes.slice(i) };
    let code = more > 0 ? lead & (0x3f >> more) : lead;
    for (let j = 1; j < taken; j++) code = (code << 6) | (bytes[i + j] & 0x3f);
    text += more < 0 || taken <= more ? "\ufffd" : String.fromCodePoint(code);
    i += taken;
  }
  return { text, rest: [] };
}

class Tokenizer {
  /** `tokens` by id (null where there is none), `merges` as "left right" in order, `added` tokens, `nfc`. */
  constructor({ tokens, merges, added, nfc }) {
    this.tokens = tokens;
    this.nfc = nfc;
    this.size = tokens.length;
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.added = new Map(added.map((token) => [token.id, token]));
    this.addedIds = new Map(added.map((token) => [token.content, token.id]));
    [this.open, this.close] = ["<think>", "</think>"].map((tag) => this.ids.get(tag)); // undefined where there is none
    this.longest = tokens.reduce((most, token) => Math.max(most, (token ?? "").length), 1); // characters, or bytes
    this.words = new Map(); // what has been merged before
    const sorted = (normalized) => added.filter((token) => token.normalized === normalized).map(({ content }) => content);
    this.written = splitter(sorted(false));
    this.normalised = splitter(sorted(true));
  }

  /** Token ids of a text; special tokens written out in it become their one id. */
  encode(text) {
    if (/\p{Surrogate}/u.test(text)) throw new Error("text: half a character found, expected whole ones: mend it");
    const ids = [];
    for (const [piece, added] of this.written(text)) {
      if (added) ids.push(this.addedIds.get(piece));
      else {
        for (const [part, known] of this.normalised(this.nfc ? piece.normalize("NFC") : piece)) {
          if (known) ids.push(this.addedIds.get(part));
          else for (const word of cut(part)) ids.push(...this.merged(word));
        }
      }
    }
    return ids;
  }

  /** One word: its bytes, of which the pair that was learned first is merged, again and again. */
  merged(word) {
    if (this.words.has(word)) return this.words.get(word);
    const parts = utf8Bytes(word).map((byte) => CHARACTER_OF[byte]);
    for (;;) {
      let [best, place] = [Infinity, -1];
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
        if (rank < best) [best, place] = [rank, i];
      }
      if (place < 0) break;
      parts.splice(place, 2, parts[place] + parts[place + 1]);
    }
    const ids = parts.map((part) => this.ids.get(part)).filter((id) => id !== undefined);
    if (this.words.size < 20000) this.words.set(word, ids);
    return ids;
  }

  /** The bytes that a token stands for; several tokens may share one character between them. */
  bytes(id) {
    const token = this.tokens[id] ?? "";
    return this.added.has(id) ? utf8Bytes(token) : Array.from(token, (character) => BYTE_OF.get(character));
  }

  decode(ids) {
    const { text, rest } = utf8Text(ids.flatMap((id) => this.bytes(id)));
    return rest.length ? text + "\ufffd" : text;
  }

  /** An answer's ids -> {text, thinking}: tags and special tokens are no text, nor line breaks around either part. */
  parted(ids, thinking = false) {
    const found = { true: "", false: "" };
    let bytes = [];
    const release = () => {
      found[thinking] += utf8Text(bytes).text.replace(/^\n+|\n+$/g, "");
      bytes = [];
    };
    for (const id of ids) {
      if (id === this.open || id === this.close) {
        release();
        thinking = id === this.open;
      } else if (!this.added.get(id)?.special) bytes.push(...this.bytes(id));
    }
    release();
    return { text: found.false, thinking: found.true || null };
  }
}

/** Text -> [piece, whether it is one of the tokens]; of two that begin at one place the longer is taken. */
function splitter(tokens) {
  if (!tokens.length) return (text) => [[text, false]];
  const escaped = [...tokens].sort((a, b) => b.length - a.length).map((t) => t.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&"));
  const pattern = new RegExp(`(${escaped.join("|")})`, "u");
  return (text) => text.split(pattern).map((piece, i) => [piece, i % 2 === 1]).filter(([piece]) => piece);
}

/** The words of a text, and what lies between them. */
function cut(text) {
  const pieces = [];
  let end = 0;
  for (const { 0: word, index } of text.matchAll(WORDS)) {
    if (index > end) pieces.push(text.slice(end, index));
    pieces.push(word);
    end = index + word.length;
  }
  if (end < text.length) pieces.push(text.slice(end));
  return pieces;
}
