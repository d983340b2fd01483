// A person with matrix-js-sdk: reads one JSON array a line, does or waits for what it says, and
// answers with one JSON object a line. The library's own log goes to stderr.
// May not: look at what the server said in any other way than through what the library made of it.

import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import * as sdk from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";

const SEES_WITHIN_MS = 30_000;
const { version } = createRequire(import.meta.url)("matrix-js-sdk/package.json");

for (const level of ["trace", "debug", "log", "info", "warn", "error"]) {
    console[level] = (...words) => process.stderr.write(`${level}: ${words.join(" ")}\n`);
}
logger.setLevel?.("warn");

let client;

/// Resolves with what `found` gives once it gives something, looked at after each of `events`;
/// with null when the time is up.
function until(found, ...events) {
    return new Promise((resolve) => {
        const end = (value) => {
            clearTimeout(timer);
            events.forEach((event) => client.off(event, look));
            resolve(value);
        };
        const look = () => {
            const value = found();
            if (value) end(value);
        };
        const timer = setTimeout(() => end(null), SEES_WITHIN_MS);
        events.forEach((event) => client.on(event, look));
        look();
    });
}

const asked = {
    async login(baseUrl, userId, password) {
        const loggedIn = await sdk.createClient({ baseUrl }).loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: userId },
            password,
        });
        client = sdk.createClient({
            baseUrl,
            accessToken: loggedIn.access_token,
            userId: loggedIn.user_id,
            deviceId: loggedIn.device_id,
        });
        await client.initRustCrypto({ useIndexedDB: false });
        await client.startClient({ initialSyncLimit: 20 });
        if (!(await until(() => client.isInitialSyncComplete(), sdk.ClientEvent.Sync))) {
            throw new Error("no first sync");
        }
        return `matrix-js-sdk ${version}`;
    },
    async knock(room, viaServers, reason) {
        return (await client.knockRoom(room, { viaServers, reason })).room_id;
    },
    async join(roomId) {
        await client.joinRoom(roomId);
        return asked.stands(roomId, "join");
    },
    async leave(roomId) {
        await client.leave(roomId);
        return asked.stands(roomId, "leave");
    },
    async invite(roomId, userId) {
        await client.invite(roomId, userId);
        return true;
    },
    async say(roomId, text) {
        return (await client.sendTextMessage(roomId, text)).event_id;
    },
    async stands(roomId, membership) {
        const found = () => client.getRoom(roomId)?.getMyMembership() === membership;
        return (await until(found, sdk.RoomEvent.MyMembership, sdk.ClientEvent.Sync)) ?? false;
    },
    async roomName(roomId) {
        return client.getRoom(roomId)?.name ?? null;
    },
    knockOf(roomId, userId) {
        const found = () => {
            const member = client.getRoom(roomId)?.getMember(userId);
            return member?.membership === "knock" ? member.events.member.getContent().reason : null;
        };
        return until(found, sdk.RoomMemberEvent.Membership, sdk.ClientEvent.Sync);
    },
    async hasJoined(roomId, userId) {
        const found = () => client.getRoom(roomId)?.getMember(userId)?.membership === "join";
        return (await until(found, sdk.RoomMemberEvent.Membership, sdk.ClientEvent.Sync)) ?? false;
    },
    read(roomId, eventId) {
        const found = () => client.getRoom(roomId)?.findEventById(eventId)?.getContent().body;
        return until(found, sdk.RoomEvent.Timeline, sdk.MatrixEventEvent.Decrypted, sdk.ClientEvent.Sync);
    },
};

for await (const line of createInterface({ input: process.stdin })) {
    const [what, ...details] = JSON.parse(line);
    let answer;
    try {
        answer = { found: (await asked[what](...details)) ?? null };
    } catch (error) {
        answer = { error: `${error.name}: ${error.message}` };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
client?.stopClient();
process.exit(0);
