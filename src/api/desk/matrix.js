// The client API of the server that this page comes from, and the session of who uses it.
// May not: touch the page, or keep the access token anywhere but in the tab's own storage.

const API = "/_matrix/client/v3";
const KEPT_AS = "vestibule.desk.session";

/// The server answers no sooner than it must: a poll is given up when it stays away for much longer than it was asked to.
const POLL_MS = 30_000;
const ANSWER_MS_MAX = 30_000;

/// How often, and for how long, a request waits that came too early.
const WAITS_MAX = 20;
const WAIT_MS_MAX = 60_000;

/// What the page looks at. Who is in a room, it never asks: rooms may be large. Knocks come by the timeline, and as a list.
const STATE = ["m.room.create", "m.room.name", "m.room.canonical_alias", "m.room.power_levels"];
const FILTER = {
    presence: { not_types: ["*"] },
    account_data: { not_types: ["*"] },
    room: {
        account_data: { not_types: ["*"] },
        ephemeral: { not_types: ["*"] },
        timeline: { types: [...STATE, "m.room.member"], limit: 100 },
    },
};
const FIRST_FILTER = { ...FILTER, room: { ...FILTER.room, state: { types: STATE }, timeline: { not_types: ["*"], limit: 1 } } };
const LATER_FILTER = { ...FILTER, room: { ...FILTER.room, state: { types: STATE } } };

/// The server said no.
export class Refused extends Error {
    constructor(status, body, retryAfterMs) {
        super(typeof body.error === "string" ? body.error : `status ${status}`);
        this.status = status;
        this.errcode = body.errcode ?? "";
        this.retryAfterMs = retryAfterMs;
    }
}

/// Nobody answered.
export class Unreachable extends Error {}

async function ask(method, path, { token, body, signal } = {}) {
    const headers = {};
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body) headers["Content-Type"] = "application/json";
    let answer;
    let said;
    try {
        answer = await fetch(API + path, {
            method, headers, signal, body: body && JSON.stringify(body), cache: "no-store", credentials: "omit",
        });
        said = await answer.json();
    } catch (fault) {
        if (signal?.aborted && signal.reason?.name !== "TimeoutError") throw fault;
        if (answer === undefined || answer.ok) throw new Unreachable("the server does not answer");
        said = {};
    }
    if (answer.ok) return said;
    const seconds = Number(answer.headers.get("Retry-After"));
    throw new Refused(answer.status, said ?? {}, said?.retry_after_ms ?? (seconds ? seconds * 1000 : 1000));
}

function path(...parts) {
    return `/${parts.map(encodeURIComponent).join("/")}`;
}

export function pause(ms, signal) {
    return new Promise((resolve, reject) => {
        signal?.throwIfAborted();
        const timer = setTimeout(resolve, ms);
        signal?.addEventListener("abort", () => {
            clearTimeout(timer);
            reject(signal.reason);
        }, { once: true });
    });
}

/// A user who is logged in.
export class Session {
    constructor(userId, token) {
        this.userId = userId;
        this.token = token;
        this.ended = new AbortController();
    }

    /// The one that this tab had before it was loaded again; null when there is none.
    static kept() {
        try {
            const { userId, token } = JSON.parse(sessionStorage.getItem(KEPT_AS)) ?? {};
            return userId && token ? new Session(userId, token) : null;
        } catch {
            return null;
        }
    }

    static async begin(user, password) {
        const body = {
            type: "m.login.password",
            identifier: { type: "m.id.user", user },
            password,
            initial_device_display_name: "Knock desk",
        };
        const { user_id: userId, access_token: token } = await ask("POST", "/login", { body });
        sessionStorage.setItem(KEPT_AS, JSON.stringify({ userId, token }));
        return new Session(userId, token);
    }

    /// Forgets the token here. Whether the server could be told to forget it too: the answer.
    async end() {
        this.forget();
        await ask("POST", "/logout", { token: this.token, body: {} });
    }

    forget() {
        sessionStorage.removeItem(KEPT_AS);
        this.ended.abort(new DOMException("logged out", "AbortError"));
    }

    #ask(method, where, body, withinMs = ANSWER_MS_MAX) {
        const signal = AbortSignal.any([this.ended.signal, AbortSignal.timeout(withinMs)]);
        return ask(method, where, { token: this.token, body, signal });
    }

    /// What is new since `since`, waited for; everything when that is undefined.
    sync(since) {
        const query = new URLSearchParams({
            filter: JSON.stringify(since ? LATER_FILTER : FIRST_FILTER),
            set_presence: "offline",
            ...(since && { since, timeout: POLL_MS }),
        });
        return this.#ask("GET", `/sync?${query}`, undefined, POLL_MS + ANSWER_MS_MAX);
    }

    async knocks(roomId) {
        return (await this.#ask("GET", `${path("rooms", roomId, "members")}?membership=knock`)).chunk;
    }

    event(roomId, eventId) {
        return this.#ask("GET", path("rooms", roomId, "event", eventId));
    }

    member(roomId, userId) {
        return this.#ask("GET", `${path("rooms", roomId, "state", "m.room.member", userId)}?format=event`);
    }

    /// `action` is `invite`, `kick` or `ban`. Waits when the server asks for it, and tells `waiting` for how long.
    async answer(roomId, action, userId, reason, waiting) {
        for (let waits = 0; ; waits += 1) {
            try {
                return await this.#ask("POST", path("rooms", roomId, action), { user_id: userId, ...(reason && { reason }) });
            } catch (refused) {
                const isEarly = refused instanceof Refused && refused.status === 429;
                if (!isEarly || waits >= WAITS_MAX) throw refused;
                const ms = Math.min(refused.retryAfterMs, WAIT_MS_MAX);
                waiting(ms);
                await pause(ms, this.ended.signal);
            }
        }
    }
}
