/** The server said no, or did not answer: then `status` is null. */
export class UnmaskError extends Error {
  /** @param {string} message @param {{status?: number, code?: string, param?: string, requestId?: string, cause?: unknown}} [about] */
  constructor(message, { status, code, param, requestId, cause } = {}) {
    super(message, { cause });
    this.name = "UnmaskError";
    this.status = status ?? null;
    this.code = code ?? null;
    this.param = param ?? null;
    this.requestId = requestId ?? null;
  }
}

/** @param {any} body what should be {"error": {...}}; a proxy in between may have sent anything */
export function errorOf(body, about = {}) {
  const error = body?.error ?? {};
  const message = error.message ?? `the server answered ${about.status ?? "an error"} without saying why`;
  return new UnmaskError(message, { ...about, code: error.code, param: error.param });
}

/** @param {Response} response */
export async function errorOfResponse(response) {
  const body = await response.json().catch(() => null);
  return errorOf(body, { status: response.status, requestId: response.headers.get("x-request-id") ?? undefined });
}
