//! What other servers ask of us. One URL, one file.
//! May not: serve clients, or answer an unsigned request where the specification asks for a signature.

mod auth_chain;
mod backfill;
mod event;
mod event_auth;
mod get_missing_events;
mod graph_walk;
mod handshake;
mod hierarchy;
mod invite;
mod key_query;
mod key_server;
mod make_join;
mod make_knock;
mod make_leave;
mod pdu_text;
mod public_rooms;
mod query_directory;
mod query_profile;
mod raw_query;
mod readers;
pub mod send;
mod send_join;
mod send_knock;
mod send_leave;
mod state;
mod state_ids;
mod user_devices;
mod user_keys_claim;
mod user_keys_query;
mod version;

use actix_web::web::ServiceConfig;

/// All federation endpoints.
pub fn routes(config: &mut ServiceConfig) {
    version::routes(config);
    key_server::routes(config);
    key_query::routes(config);
    make_knock::routes(config);
    send_knock::routes(config);
    make_leave::routes(config);
    send_leave::routes(config);
    send::routes(config);
    make_join::routes(config);
    send_join::routes(config);
    invite::routes(config);
    state_ids::routes(config);
    state::routes(config);
    event::routes(config);
    event_auth::routes(config);
    backfill::routes(config);
    get_missing_events::routes(config);
    query_profile::routes(config);
    query_directory::routes(config);
    public_rooms::routes(config);
    hierarchy::routes(config);
    user_devices::routes(config);
    user_keys_query::routes(config);
    user_keys_claim::routes(config);
}

#[cfg(test)]
mod tests;
