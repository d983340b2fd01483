//! What bad peers get: for each known way to do harm, from advisories and from other servers' repairs, the test that holds it off.
//! May not: be a list of ideas. Each row names a test; a row without one says why there is none.
//!
//! The peers speak real TLS and sign with keys of their own. Whatever they do, nothing of theirs bears our signature but invites
//! and restricted joins that were judged; nothing is believed that is not proven; no request goes to a denied address; time
//! and memory are bounded; the next server is asked; and our users' `/sync` answers. `bad/…` are tables of
//! `tests/interop/bad`, which another implementation of keys and signatures goes through; `a::b` is in that crate or file.
//!
//! Handshakes, and what we sign:
//!
//! | row | what | held by |
//! |---|---|---|
//! | V01 | CVE-2026-24471: a template is signed as it comes | [`templates`] (knock, join, leave; what is taken is our own in every word), `protocol::template` |
//! | V02 | CVE-2025-68667: any member event is co-signed as an invite | [`handshakes`], `api::invites` |
//! | V03 | CVE-2019-18835: events badly signed, or by the wrong server | [`handshakes`], `bad/send_knock` |
//! | V04 | CVE-2020-26257: path and body name different rooms | [`handshakes`], `bad/send_knock` |
//! | V05 | CVE-2018-16515: a transaction's signature stands for its events' | [`transactions`] |
//! | V06 | CVE-2024-52815: odd stripped state breaks `/sync` for good | [`stripped_state`] (knock and invite, before and after a restart) |
//! | V07 | CVE-2023-32323: large stripped state blocks a server's queue | [`sizes`] |
//! | V08 | continuwuity e0b7d0301: a bad template ends the search | [`templates`] |
//! | V09 | Synapse #5744: users moved by servers they are not of | [`handshakes`], `bad/make_knock`, `bad/leave` |
//! | V10 | continuwuity 688cd8f46: the resident signs what is not its own | [`handshakes`] |
//! | V11 | continuwuity 0ea0d09b9: a pending knock opens reads | [`readers`], `api::reads` |
//! | V12 | MSC4311: the create event of another room | [`stripped_state`], `api::invites` |
//! | V13 | Synapse #18075: a late reply undoes what came before it | [`denials`], `elsewhere::an_invite_before_the_answer_to_the_knock_stands` |
//!
//! Signatures, keys, `X-Matrix`:
//!
//! | row | what | held by |
//! |---|---|---|
//! | V14 | CVE-2024-6299: a key that has expired | [`keys`], `bad/headers`, `bad/send_knock`, `bad/odd_but_right`, `federation::keyring` |
//! | V15 | CVE-2026-24044: a key that others know | [`keys`], `commands::fresh_installs_have_keys_and_tokens_of_their_own` |
//! | V16 | CVE-2024-6301, CVE-2023-42453: ephemeral events for others | [`ephemera`] |
//! | V17 | CVE-2022-39200: one way in is not checked | [`gaps`], [`joins`], `transactions::cve_2018_16515_each_event_of_a_transaction_needs_its_own_signature` |
//! | V18 | RUSTSEC-2022-0093: weak keys, pairs that do not match | `bad/keys`, `federation::keyring`, `protocol::pdu`, `vestibule::signing_key` (a key file) |
//! | V19 | a notary, or the server itself, lies about keys | [`keys`], `bad/keys`, `federation::keyring` |
//! | V20 | the header is ambiguous or for somebody else | `bad/headers` |
//!
//! Rules and state:
//!
//! | row | what | held by |
//! |---|---|---|
//! | V23 | ruma-state-res 0.16: a knock under any join rule | `bad/make_knock` and `bad/send_knock` (every illegal cell), [`crate::knocks`] (every legal one) |
//! | V24 | gomatrixserverlib #430, #431: restricted rooms, banned users | [`rules`], [`transactions`] |
//! | V25 | ruma-state-res 0.11: from invite to knock | [`rules`] |
//! | V26 | CVE-2022-36009: who may not speak does | [`transactions`] |
//! | V27 | CVE-2022-31152: auth events that the rules do not name | [`rules`], [`transactions`] |
//! | V28 | CVE-2022-39374: rejected events enter the state | [`transactions`]; all forks in `protocol::room_graph` |
//! | V29 | CVE-2018-12423: a room in which nobody was given power | [`joins`] |
//! | V30 | CVE-2025-49090: state resets, a second creation | [`joins`], [`rules`], [`transactions`], [`templates`]; the resolution itself in `protocol::state` |
//! | V31 | Synapse #6501: auth events of another room | [`rules`], [`transactions`] |
//! | V32 | Synapse 1.15.2, continuwuity aa1281a9e: a state with more than was announced, or less than there is | [`gaps`] |
//! | V33 | CVE-2024-6302: redactions by who may not | [`transactions`] |
//! | V34 | tuwunel b4e94544a: a walk that broke off counts as a whole one | [`gaps`] |
//! | V35 | continuwuity 7b3e3a26b: an auth event without a state key | [`rules`] |
//! | V36 | RUSTSEC-2025-0065: power levels at the ends of integers | [`rules`] |
//! | V37 | RUSTSEC-2025-0135: an unknown join rule | [`rules`] |
//!
//! ACLs and confusion of rooms:
//!
//! | row | what | held by |
//! |---|---|---|
//! | V38 | MSC4436: other letters evade an ACL | [`readers`] (each protected endpoint), `bad/make_knock` |
//! | V39 | Synapse #3796: ACLs are not asked in `/send` | [`transactions`], [`ephemera`]; IP literals in `bad/make_knock` |
//! | V40 | RUSTSEC-2024-0421: two spellings of one name | [`keys`], `bad/headers` |
//! | V41 | CVE-2023-45129: an ACL that costs time | [`readers`] |
//! | V42 | CVE-2022-39335: an event of one room by way of another | [`readers`], `api::reads` |
//! | V43 | continuwuity 0.5.4: what is not judged yet is shown | [`gaps`] |
//! | V44 | CVE-2021-39163: news for who has left | [`clients`] |
//! | V45 | CVE-2023-43796: devices of users of others | [`readers`] |
//! | V46 | continuwuity b0c1381f0: events for rooms that we left | [`transactions`], [`denials`] |
//! | V47 | CVE-2024-6303: an alias is moved by anybody | `directory::aliases_lead_to_rooms_and_belong_to_their_makers` |
//!
//! JSON and sizes:
//!
//! | row | what | held by |
//! |---|---|---|
//! | V48 | CVE-2025-30355: a depth that none can have | [`transactions`], `templates::cve_2026_24471_templates_are_never_signed_as_they_come`; beyond 2^53 in `bad/send_knock` |
//! | V49 | CVE-2020-26890: NaN and its like | `bad/json_bodies`, `api::json_object` |
//! | V50 | CVE-2018-10657: the greatest depth pins the order | [`transactions`], `bad/odd_but_right` |
//! | V51 | CVE-2022-31052: nesting without end | [`replies`], `bad/json_bodies`, `bad/keys`, `api::json_object` |
//! | V52 | sizes of events and ids | [`sizes`], `bad/send_knock` |
//! | V53 | JSON that can be read in two ways | `bad/json_bodies`, `api::json_object` |
//! | V54 | CVE-2024-52805: bodies of parts fill the memory | [`clients`], `api::body` |
//! | V55 | CVE-2024-52791: replies that fill the memory | [`replies`] |
//! | V56 | CVE-2026-45076: pages of hidden events end the way back | `api::timeline` |
//!
//! Where our requests go:
//!
//! | row | what | held by |
//! |---|---|---|
//! | V58 | CVE-2024-52594: names that lead into private networks | [`addresses`]; redirects and service records in `federation::discovery` |
//! | V59 | CVE-2021-21392: addresses in disguise | [`addresses`], `federation::egress` |
//! | V60 | CVE-2021-21273: requests that pass by the filter | [`addresses`]; push, identity servers and previews are not there |
//! | V61 | CVE-2021-21274: a well-known without end | [`replies`] (where port 443 can be had; and for keys), `federation::discovery` |
//!
//! Work without end:
//!
//! | row | what | held by |
//! |---|---|---|
//! | V63 | CVE-2024-31208: a graph of what authorizes that fills disk and time | [`work`] |
//! | V64 | tuwunel extremities: a room with many ends | [`transactions`] |
//! | V65 | tuwunel 35655a859: a walk without end | [`readers`] |
//! | V66 | CVE-2026-45078: who waits keeps the processor busy | [`work`] |
//! | V67 | CVE-2021-21393: ids without end | [`clients`] |
//! | V68 | Synapse limits: more in a transaction than it may hold | [`transactions`] |
//! | V69 | continuwuity cc1f667c2: a space that holds itself | [`work`], `api::listings` |
//! | V70 | more transactions at once than there are places | [`work`], `api::transactions` |
//!
//! Media, pages, files:
//!
//! | row | what | held by |
//! |---|---|---|
//! | V71 | CVE-2021-41281: an id that leads out of the store | [`media`] (media are not there: nothing is asked for, nothing is written) |
//! | V72 | CVE-2024-37302: anybody has us fetch | [`media`] |
//! | V73 | CVE-2024-37303: the old paths plant what others wrote | [`media`] |
//! | V75 | CVE-2020-26891: scripts in our origin, pages in frames | [`media`] |
//! | V77 | actix-files 0.6.10: an empty range, a path out of the root | [`media`] |
//!
//! Clients, accounts and the log:
//!
//! | row | what | held by |
//! |---|---|---|
//! | V21 | CVE-2025-61672: device keys that are none | [`clients`] |
//! | V22 | signatures on keys that do not verify | `api::device_keys` |
//! | V78 | secrets that can be guessed | `commands::fresh_installs_have_keys_and_tokens_of_their_own` |
//! | V79 | CVE-2023-32682: who is gone, or nobody, logs in | [`clients`], `accounts::who_deactivates_is_out_of_every_room_first_and_does_not_come_back` |
//! | V80 | passwords that stay behind | `accounts::passwords_and_tokens_are_in_no_file_and_no_log` |
//! | V82 | tuwunel c564d9e23, CVE-2025-62425: a stage of the proof that can be passed by | [`clients`] |
//! | V83 | an account is registered a second time | `accounts::registration_takes_a_name_once_and_its_password_stays` |
//! | V85 | continuwuity d1ebcfaf0: tokens that two have, names of elsewhere | [`clients`] |
//! | V86 | tokens in logs | `accounts::passwords_and_tokens_are_in_no_file_and_no_log` |
//! | V87 | lines of others in the log | `clients::line_breaks_in_what_others_say_break_no_line_of_the_log`, `vestibule::logger` |
//! | V88 | tuwunel 5798aad7e: secrets for who is not logged in | [`clients`] |
//! | V89 | requests with two lengths | `api::tests` |
//! | V90 | libraries of which earlier versions had an advisory | `tidy::workspace` |
//!
//! Not in the tables, since nothing is here that the row could be about:
//!
//! - V57, push rules that cost time: users have no rules of their own.
//! - V62, the second hop of previews, media and pushers: there are none of the three; that of a well-known answer is V58's.
//! - V74, V76, images and previews without end: nothing is decoded, nothing is previewed.
//! - V81, sessions that prove an e-mail address: accounts have none.
//! - V84, commands in messages: no message commands anything, and admins have a listener of their own.
//! - V91, sled's parts that nobody keeps: the engine stands behind the traits of `storage`, whose conformance suite two keep.

mod addresses;
mod clients;
mod denials;
mod ephemera;
mod gaps;
mod ground;
mod guest;
mod handshakes;
mod joins;
mod keys;
mod media;
mod readers;
mod replies;
mod rules;
mod sizes;
mod stripped_state;
mod templates;
mod transactions;
mod work;
