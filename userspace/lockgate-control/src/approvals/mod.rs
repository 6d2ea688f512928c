//! Requests that wait for people: one task a request, a registry over all of them, and the port that the data
//! plane sees. Who may vote and what counts is lockgate-policy's machine; who somebody is, is the API's to say.

pub(crate) mod bundle;
pub(crate) mod case;
pub(crate) mod port;
pub(crate) mod registry;

#[cfg(test)]
mod lasting;
#[cfg(test)]
mod load;
#[cfg(test)]
mod tests;
