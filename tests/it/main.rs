//! Scenarios that run the real program as a process and look at it from outside: command line, files, HTTP.
//! May not: call into the server; what it does is seen through the interfaces that people and other servers use.

#[cfg(test)]
mod accounts;
#[cfg(test)]
mod actor_stats;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod directory;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod elsewhere;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod knocks;
#[cfg(test)]
mod listeners;
#[cfg(test)]
mod memberships;
#[cfg(test)]
mod rooms;
#[cfg(test)]
mod sync;
#[cfg(test)]
mod timeline;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod typing_and_receipts;
#[cfg(test)]
mod upgrades;

#[cfg(test)]
use vestibule_scenery as support;
