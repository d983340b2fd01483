//! `GET /metrics`: counters in Prometheus' text format.
//! May not: name a room or a user in a label, or ask an actor.

use std::fmt::Write as _;

use actix_web::{
    HttpResponse,
    web::{self, Data, ServiceConfig},
};
use vestibule_actors::gauges::Totals;

use super::access::Operator;
use crate::{error::MatrixError, state::App};

/// Prometheus' text exposition format.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn routes(config: &mut ServiceConfig) {
    config.service(web::resource("/metrics").route(web::get().to(metrics)));
}

async fn metrics(_: Operator, app: Data<App>) -> Result<HttpResponse, MatrixError> {
    let rooms_stored = app.stores.rooms.rooms_stored().await?;
    let gauges = app.rooms.gauges();
    let depths: Vec<u64> = gauges.rooms().iter().map(|room| room.mailbox_depth).collect();
    let mut text = Exposition::default();
    text.rooms(&gauges.totals(), rooms_stored);
    let waiting = depths.iter().fold(0_u64, |sum, depth| sum.saturating_add(*depth));
    text.gauge("vestibule_mailbox_depth", "Messages that wait for rooms.", waiting);
    let deepest = depths.into_iter().max().unwrap_or(0);
    text.gauge("vestibule_mailbox_depth_max", "Messages that wait for the busiest room.", deepest);
    text.gauge("vestibule_sync_waiting", "Clients that wait in a long poll.", count(app.notifier.waiting()));
    let synced = app.stores.writer.synced();
    text.counter("vestibule_journal_syncs_total", "Syncs of the journal that made commits durable.", synced.syncs);
    text.counter("vestibule_journal_commits_total", "Commits that these syncs made durable.", synced.commits);
    text.counter("vestibule_requests_total", "HTTP requests.", app.vitals.requests());
    text.counter("vestibule_requests_limited_total", "Requests answered with 429.", app.vitals.limited());
    text.counter("vestibule_request_panics_total", "Requests that ended in a panic.", app.vitals.panics());
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).body(text.0))
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Text that grows family by family.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn rooms(&mut self, totals: &Totals, rooms_stored: u64) {
        self.gauge("vestibule_rooms_stored", "Rooms in the store.", rooms_stored);
        self.gauge("vestibule_actors_live", "Room actors in memory.", totals.actors_live);
        self.counter("vestibule_actors_started_total", "Room actors started.", totals.actors_started);
        self.counter("vestibule_actors_passivated_total", "Room actors that left memory.", totals.actors_passivated);
        self.counter(
            "vestibule_actors_restarted_total",
            "Room actors restarted after a failure.",
            totals.actors_restarted,
        );
        self.gauge("vestibule_rooms_quarantined", "Rooms that do not load.", count(totals.quarantined.len()));
        let knocks = &totals.knocks;
        self.counter("vestibule_knock_templates_total", "Templates of knocks given out.", knocks.prepared);
        self.family("vestibule_knocks_total", "Knocks by what became of them.", "counter");
        for (outcome, number) in [
            ("admitted", knocks.admitted),
            ("retracted", knocks.retracted),
            ("accepted", knocks.accepted),
            ("denied", knocks.denied),
        ] {
            self.sample("vestibule_knocks_total", &format!("outcome=\"{outcome}\""), number);
        }
        self.family("vestibule_knocks_refused_total", "Knocks refused, by reason.", "counter");
        for (reason, number) in &knocks.refused {
            self.sample("vestibule_knocks_refused_total", &format!("reason=\"{reason}\""), *number);
        }
        self.gauge("vestibule_knocks_pending", "Knocks that wait for an answer.", knocks.pending);
        self.family("vestibule_state_decided_total", "Current states decided, by way.", "counter");
        for (way, number) in [
            ("linear", totals.paths.linear),
            ("short_path", totals.paths.short),
            ("full_resolution", totals.paths.full),
        ] {
            self.sample("vestibule_state_decided_total", &format!("way=\"{way}\""), number);
        }
    }

    fn gauge(&mut self, name: &str, help: &str, number: u64) {
        self.family(name, help, "gauge");
        self.sample(name, "", number);
    }

    fn counter(&mut self, name: &str, help: &str, number: u64) {
        self.family(name, help, "counter");
        self.sample(name, "", number);
    }

    fn family(&mut self, name: &str, help: &str, kind: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, label: &str, number: u64) {
        if label.is_empty() {
            self.line(format_args!("{name} {number}\n"));
        } else {
            self.line(format_args!("{name}{{{label}}} {number}\n"));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing into a string cannot fail.
        let _written = self.0.write_fmt(line).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vestibule_actors::gauges::KnockTotals;

    use super::*;

    #[test]
    fn counters_stand_under_their_family() {
        let refused = BTreeMap::from([("already_knocking", 1), ("banned", 2)]);
        let knocks = KnockTotals { admitted: 4, pending: 3, refused, ..KnockTotals::default() };
        let totals = Totals { actors_live: 5, knocks, ..Totals::default() };
        let mut text = Exposition::default();
        text.rooms(&totals, 7);
        for line in [
            "# TYPE vestibule_rooms_stored gauge",
            "vestibule_rooms_stored 7",
            "vestibule_actors_live 5",
            "# TYPE vestibule_knocks_total counter",
            "vestibule_knocks_total{outcome=\"admitted\"} 4",
            "vestibule_knocks_refused_total{reason=\"already_knocking\"} 1",
            "vestibule_knocks_refused_total{reason=\"banned\"} 2",
            "vestibule_knocks_pending 3",
        ] {
            assert!(text.0.lines().any(|written| written == line), "{line}");
        }
        assert!(text.0.ends_with('\n'));
    }
}
