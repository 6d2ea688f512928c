//! The console: pages for the people who decide, look back and keep watch. Rendered here, escaped by the compiler, one style
//! sheet and one script in the binary; everything works without the script, which only makes it live and quick.
//!
//! It owns nothing and decides nothing. Requests come from the desk, everything else from the [`House`]; what a form asks for is
//! done by the API's own routes, called in process with the same [`crate::Caller`], so that a page can do nothing that the API
//! would refuse. No GET changes anything.

mod approvals;
mod assets;
mod audit;
mod breakglass;
mod bundle;
mod decide;
mod flash;
mod form;
mod grants;
mod inside;
mod live;
mod me;
pub(crate) mod page;
mod parts;
mod policies;
mod request;
mod search;
mod sessions;
mod targets;
mod timeline;

#[cfg(test)]
mod tests;

use crate::{Control, api::problem::Problem, desk::Desk, house::House};
use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Streams of news that may be open at once: each is a connection that waits. More are told to ask now and then.
const STREAMS_MAX: usize = 256;

/// What the pages stand on.
pub(crate) struct Console {
    desk: Arc<Desk>,
    /// The API, with the layers it is served with.
    api: Router,
    streams: Arc<Semaphore>,
}

impl Control {
    /// The console's pages, to be merged beside the API's routes below the layer of [`Control::authenticated`].
    pub fn console(&self) -> Router {
        let console = Arc::new(Console {
            desk: self.desk.clone(),
            api: self.authenticated(self.router()),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        });
        routes().with_state(console)
    }
}

impl Console {
    fn house(&self) -> Result<&Arc<dyn House>, page::Refusal> {
        self.desk
            .house()
            .ok_or_else(|| Problem::unavailable("the agent is starting; try again in a moment").into())
    }
}

fn routes() -> Router<Arc<Console>> {
    Router::new()
        .route("/", get(home))
        .route("/approvals", get(approvals::inbox))
        .route("/approvals/live", get(live::inbox))
        .route("/approvals/decide", post(decide::several))
        .route("/approvals/{id}", get(request::show))
        .route("/approvals/{id}/live", get(live::request))
        .route("/approvals/{id}/decide", post(decide::one))
        .route("/bundles/{id}", get(bundle::show))
        .route("/bundles/{id}/decide", post(decide::bundle))
        .route("/grants", get(grants::list))
        .route("/grants/{id}/revoke", post(grants::revoke))
        .route("/breakglass", get(breakglass::list).post(breakglass::ask))
        .route("/breakglass/{id}/end", post(breakglass::end))
        .route("/breakglass/{id}/review", post(breakglass::review))
        .route("/sessions", get(sessions::list))
        .route("/sessions/{id}", get(sessions::show))
        .route("/sessions/{id}/live", get(live::session))
        .route("/sessions/{id}/kill", post(sessions::kill))
        .route("/search", get(search::show))
        .route("/targets", get(targets::list).post(targets::register))
        .route("/targets/{name}/remove", post(targets::remove))
        .route("/governed", get(targets::governed))
        .route("/policies", get(policies::show))
        .route("/audit", get(audit::show))
        .route("/audit/live", get(live::audit))
        .route("/audit/verify", post(audit::begin))
        .route("/audit/verify/stop", post(audit::stop))
        .route("/audit/proof", get(audit::proof))
        .route("/me", get(me::show))
        .merge(assets::routes())
}

async fn home(State(_): State<Arc<Console>>, _: page::Visit) -> Response {
    axum::response::Redirect::to("/approvals").into_response()
}
