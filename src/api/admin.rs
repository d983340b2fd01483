//! What operators see: actor stats, knocks, decisions, metrics, health. The JSON shapes live here and nowhere lower.
//! May not: change anything, ask a room's actor, or be mounted where the listener does not serve admin.

mod access;
mod actors;
mod decisions;
mod health;
mod knocks;
mod metrics;
mod page;

use actix_web::web::ServiceConfig;

/// All endpoints of the admin listener.
pub fn routes(config: &mut ServiceConfig) {
    actors::routes(config);
    knocks::routes(config);
    decisions::routes(config);
    metrics::routes(config);
    health::routes(config);
}

#[cfg(test)]
mod tests;
