//! What other servers ask of us. One URL, one file.
//! May not: serve clients, or answer an unsigned request where the specification asks for a signature.

mod handshake;
mod key_server;
mod make_knock;
mod make_leave;
mod query_directory;
mod query_profile;
mod raw_query;
mod send_knock;
mod send_leave;
mod version;

use actix_web::web::ServiceConfig;

/// All federation endpoints.
pub fn routes(config: &mut ServiceConfig) {
    version::routes(config);
    key_server::routes(config);
    make_knock::routes(config);
    send_knock::routes(config);
    make_leave::routes(config);
    send_leave::routes(config);
    query_profile::routes(config);
    query_directory::routes(config);
}

#[cfg(test)]
mod tests;
