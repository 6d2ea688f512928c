//! `login_as:`, the role of a session. It is decided before the first statement, so nothing of a statement may stand in its
//! rule, nor anything that the job says of itself: like an allow rule, it believes no claim.

use super::Compiler;
use crate::{
    SourceFile,
    document::{Rule as RuleBlock, RuleEffect},
    yaml::Spanned,
};

/// PostgreSQL's NAMEDATALEN - 1; a certificate's common name could have one byte more.
const MAX_ROLE: usize = 63;

impl Compiler {
    pub(super) fn login_as(&mut self, file: &SourceFile, block: &Spanned<RuleBlock>) -> Option<String> {
        let role = block.login_as.as_ref()?;
        if role.is_empty() || role.len() > MAX_ROLE || role.contains('\0') {
            let message = format!("{:?} is not the name of a role", role.value);
            self.report.error(file, role.at, message, Some(format!("1 to {MAX_ROLE} bytes")));
        }
        match block.effect.value {
            RuleEffect::None | RuleEffect::Allow => {}
            RuleEffect::RequireApproval | RuleEffect::Deny => {
                let message =
                    format!("`login_as` is for rules that let pass, this one says {}", block.effect.as_str());
                self.report.error(file, role.at, message, Some("use `effect: none`".to_owned()));
            }
        }
        if block.matches.sql.is_some() || block.when.is_some() {
            let help = "match who it is and which target; put what statements may do into rules of their own";
            let message =
                "`login_as` is decided before the first statement: `sql` and `when` cannot stand beside it";
            self.report.error(file, role.at, message, Some(help.to_owned()));
        }
        // A mask for whoever claims to be something holds; a role for whoever claims it would be a gift. One rule cannot
        // believe both more and less.
        let restricts = block.mask.is_some() || block.limits.is_some() || block.record.is_some();
        if restricts && block.effect.value == RuleEffect::None {
            let message =
                "`login_as` believes less than masks, limits and records do; give it a rule of its own";
            self.report.error(
                file,
                role.at,
                message,
                Some("repeat the `match:` in a second rule".to_owned()),
            );
        }
        Some(role.value.clone())
    }
}
