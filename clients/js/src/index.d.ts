export type Part = string | Blob;
export type Modality = "text" | "audio" | "image";
export type Output = Modality | { type: Modality; format?: string; voice?: string };

/** The fields of the API as docs/api.md has them; what is left out comes from the server. */
export interface Options {
  model?: string;
  task?: string;
  instructions?: string;
  decoding?: {
    steps?: number;
    max_tokens?: number;
    block_size?: number;
    algorithm?: string;
    temperature?: number;
    top_p?: number;
    top_k?: number;
    algorithm_temperature?: number;
    repetition_penalty?: number;
    position_penalty?: number;
    guidance?: number;
    seed?: number;
    deadline_ms?: number;
    constrain?: boolean;
    reference_compat?: boolean;
  };
  return?: ("timings" | "tokens" | "confidence" | "word_timestamps")[];
  signal?: AbortSignal;
}

export interface Message {
  role: "system" | "user" | "assistant";
  content: Part | Part[];
}

export interface GenerateOptions extends Options {
  output?: Output[];
  messages?: Message[];
  /** A picture, words and speech that belong together, one of each at most. */
  edits?: Edit[];
}

export interface StreamOptions extends GenerateOptions {
  preview?: { every_steps?: number; confidence?: boolean };
}

/** What of a recording is to be said anew; `text` is what is to be heard there. */
export type Span = { text?: string } & ({ start: number; end: number } | { words: string });

/** Something with a part of it to be made anew; `{ type }` alone is made whole, to go with the others. */
export interface Edit {
  target: Part | { type: "image" | "audio" };
  mask?: Blob;
  spans?: Span[];
  transcript?: string;
}

/** In seconds. */
export interface Word {
  word: string;
  start: number;
  end: number;
}

export type OutputPart =
  | { type: "text"; text: string; truncated: boolean }
  | { type: "audio"; format: string; sample_rate: number; duration_s: number; transcript: string | null; blob: Blob }
  | { type: "image"; format: string; width: number; height: number; blob: Blob };

export interface Generation {
  id: string;
  model: string;
  task: string;
  status: "completed" | "incomplete";
  incomplete_reason?: string;
  output: OutputPart[];
  usage: { input_tokens: object; output_tokens: object; steps: number; forward_passes: number };
  timings?: Record<string, number>;
  tokens?: number[];
  confidence?: (number | null)[];
  /** Where `return` has word_timestamps. */
  words?: Word[];
}

interface Tokens {
  step: number;
  positions: number[];
  ids: number[];
  /** "" for a special token, null for a code of speech or of an image. */
  texts: (string | null)[];
  confidence?: (number | null)[];
}

export type Event = { sequence: number } & (
  | { type: "generation.created"; id: string }
  | { type: "generation.queued"; position: number; eta_ms: number | null }
  | { type: "generation.step"; step: number; steps: number; committed: number; total: number }
  | { type: "text.delta" | "text.done"; text: string }
  | { type: "audio.delta"; samples: Float32Array; format: "pcm"; sample_rate: number }
  | { type: "audio.done"; duration_s: number; transcript: string | null; words?: Word[] }
  | { type: "image.preview"; step: number; blob: Blob }
  | { type: "image.done"; blob: Blob }
  | ({ type: "tokens.commit" | "tokens.guess" } & Tokens)
  | ({ type: "generation.completed" } & Generation)
);

export interface RealtimeOptions {
  model?: string;
  instructions?: string;
  output?: "audio" | "text";
  /** Off, the caller ends each turn with commit(). */
  turnDetection?: boolean;
}

export interface RealtimeEvent {
  type: string;
  /** In response.output_audio.delta. */
  samples?: Float32Array;
  [field: string]: any;
}

export const SAMPLE_RATE: 24000;

export class RealtimeSession implements AsyncIterable<RealtimeEvent> {
  send(type: string, fields?: object): void;
  append(samples: Float32Array | Int16Array): void;
  commit(): void;
  say(text: string): void;
  truncate(itemId: string, playedMs: number): void;
  close(): void;
  [Symbol.asyncIterator](): AsyncIterator<RealtimeEvent>;
}

export class UnmaskClient {
  constructor(options?: {
    baseUrl?: string;
    apiKey?: string;
    timeout?: number;
    maxRetries?: number;
    WebSocket?: typeof WebSocket;
  });
  generate(input: Part | Part[] | null, options?: GenerateOptions): Promise<Generation>;
  stream(input: Part | Part[] | null, options?: StreamOptions): AsyncGenerator<Event, void>;
  transcribe(audio: Blob, options?: Options): Promise<string>;
  speak(text: string, options?: Options & { format?: string; voice?: string }): Promise<Blob>;
  draw(prompt: Part, options?: Options & { format?: string }): Promise<Blob>;
  ask(question: Part, options?: Options & { image?: Blob }): Promise<string>;
  chat(messages: Message[], options?: Options): Promise<string>;
  edit<T extends Part>(
    target: T,
    input: Part | Part[],
    options?: Options & { mask?: Blob; spans?: Span[]; transcript?: string },
  ): Promise<T extends string ? string : Blob>;
  realtime(options?: RealtimeOptions): Promise<RealtimeSession>;
}

export class UnmaskError extends Error {
  status: number | null;
  code: string | null;
  param: string | null;
  requestId: string | null;
}
