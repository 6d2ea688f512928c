//! What a statement makes, by name: until the catalogue is read anew, these names stand for something that it does not
//! show. What is not listed here could be anything.

use super::{Walk, string};
use crate::sql::Makes;
use lockgate_model::sql::SqlEffect;
use pg_query::{
    NodeEnum,
    protobuf::{self, AlterTableType, Node, RangeVar},
};

impl Walk<'_> {
    /// Notes what a statement makes, after it was walked.
    pub(super) fn note_makes(&mut self, node: &NodeEnum) {
        let one = |relation: Option<&RangeVar>| {
            Makes::Names(relation.iter().map(|relation| relation.relname.clone()).collect())
        };
        let last = |names: &[Node]| {
            Makes::Names(names.last().map(|name| string(name).to_owned()).into_iter().collect())
        };
        let makes = match node {
            // They change rows, or nothing that has a name.
            NodeEnum::SelectStmt(_)
            | NodeEnum::InsertStmt(_)
            | NodeEnum::UpdateStmt(_)
            | NodeEnum::DeleteStmt(_)
            | NodeEnum::MergeStmt(_)
            | NodeEnum::ExplainStmt(_)
            | NodeEnum::CopyStmt(_)
            | NodeEnum::PrepareStmt(_)
            | NodeEnum::ExecuteStmt(_)
            | NodeEnum::DeallocateStmt(_)
            | NodeEnum::DeclareCursorStmt(_)
            | NodeEnum::FetchStmt(_)
            | NodeEnum::ClosePortalStmt(_)
            | NodeEnum::TransactionStmt(_)
            | NodeEnum::ConstraintsSetStmt(_)
            | NodeEnum::VariableSetStmt(_)
            | NodeEnum::VariableShowStmt(_)
            | NodeEnum::DiscardStmt(_)
            | NodeEnum::ListenStmt(_)
            | NodeEnum::UnlistenStmt(_)
            | NodeEnum::NotifyStmt(_)
            | NodeEnum::LockStmt(_)
            | NodeEnum::RefreshMatViewStmt(_)
            | NodeEnum::TruncateStmt(_)
            | NodeEnum::CommentStmt(_)
            | NodeEnum::SecLabelStmt(_)
            | NodeEnum::CreateTrigStmt(_)
            | NodeEnum::CreateStatsStmt(_)
            | NodeEnum::AlterStatsStmt(_)
            | NodeEnum::AlterOwnerStmt(_)
            | NodeEnum::AlterDefaultPrivilegesStmt(_)
            | NodeEnum::ReplicaIdentityStmt(_)
            | NodeEnum::GrantStmt(_)
            | NodeEnum::GrantRoleStmt(_)
            | NodeEnum::CreateRoleStmt(_)
            | NodeEnum::AlterRoleStmt(_)
            | NodeEnum::AlterRoleSetStmt(_)
            | NodeEnum::DropRoleStmt(_)
            | NodeEnum::AlterSystemStmt(_)
            | NodeEnum::CheckPointStmt(_)
            | NodeEnum::VacuumStmt(_)
            | NodeEnum::ReindexStmt(_)
            | NodeEnum::ClusterStmt(_) => return,
            NodeEnum::CreateStmt(create) => {
                let plain = create.of_typename.is_none()
                    && create.table_elts.iter().all(|element| self.is_plain(element));
                match (plain, &create.relation) {
                    (true, Some(relation)) => return self.makes_plain(Some(relation)),
                    _ => one(create.relation.as_ref()),
                }
            }
            NodeEnum::CreateTableAsStmt(create) => {
                return self.makes_plain(create.into.as_ref().and_then(|into| into.rel.as_ref()));
            }
            NodeEnum::ViewStmt(view) => return self.makes_plain(view.view.as_ref()),
            NodeEnum::CreateSeqStmt(create) => return self.makes_plain(create.sequence.as_ref()),
            NodeEnum::CreateForeignTableStmt(create) => {
                one(create.base_stmt.as_ref().and_then(|base| base.relation.as_ref()))
            }
            NodeEnum::IndexStmt(index) if self.gathered.computes_unknown => one(index.relation.as_ref()),
            NodeEnum::IndexStmt(_) => return,
            NodeEnum::AlterTableStmt(alter) if alter.cmds.iter().all(is_inert) => return,
            NodeEnum::AlterTableStmt(alter) => one(alter.relation.as_ref()),
            NodeEnum::AlterSeqStmt(alter) => one(alter.sequence.as_ref()),
            NodeEnum::RuleStmt(rule) => one(rule.relation.as_ref()),
            NodeEnum::CreatePolicyStmt(policy) => one(policy.table.as_ref()),
            NodeEnum::AlterPolicyStmt(policy) => one(policy.table.as_ref()),
            NodeEnum::CreateFunctionStmt(create) => last(&create.funcname),
            NodeEnum::DefineStmt(define) => last(&define.defnames),
            NodeEnum::CreateDomainStmt(create) => last(&create.domainname),
            NodeEnum::AlterDomainStmt(alter) => last(&alter.type_name),
            NodeEnum::CreateEnumStmt(create) => last(&create.type_name),
            NodeEnum::AlterEnumStmt(alter) => last(&alter.type_name),
            NodeEnum::CreateRangeStmt(create) => last(&create.type_name),
            NodeEnum::AlterTypeStmt(alter) => last(&alter.type_name),
            NodeEnum::CompositeTypeStmt(create) => one(create.typevar.as_ref()),
            NodeEnum::DropStmt(drop) => Makes::Names(drop.objects.iter().filter_map(dropped).collect()),
            NodeEnum::RenameStmt(rename) => {
                let mut names = vec![rename.newname.clone(), rename.subname.clone()];
                names.extend(rename.relation.as_ref().map(|relation| relation.relname.clone()));
                names.extend(rename.object.as_deref().and_then(dropped));
                Makes::Names(names)
            }
            NodeEnum::AlterObjectSchemaStmt(alter) => {
                let mut names: Vec<String> =
                    alter.relation.iter().map(|relation| relation.relname.clone()).collect();
                names.extend(alter.object.as_deref().and_then(dropped));
                Makes::Names(names)
            }
            NodeEnum::CreateSchemaStmt(create) if create.schema_elts.is_empty() => return,
            _ => Makes::Anything,
        };
        self.gathered.makes = makes;
    }

    /// A relation that only reads when it is read, if what it is made of does.
    pub(super) fn makes_plain(&mut self, relation: Option<&RangeVar>) {
        let does_more = self.gathered.computes_unknown
            || self.gathered.effects.iter().any(|effect| {
                matches!(effect, SqlEffect::UnknownFunction | SqlEffect::Locks | SqlEffect::WritesRows)
            });
        let names = relation.iter().map(|relation| relation.relname.clone()).collect();
        self.gathered.makes = if does_more { Makes::Names(names) } else { Makes::Plain(names) };
    }

    /// Whether a column or a constraint brings no code along.
    fn is_plain(&self, element: &Node) -> bool {
        match &element.node {
            Some(NodeEnum::ColumnDef(column)) => {
                column.type_name.as_ref().is_none_or(|name: &protobuf::TypeName| self.type_is_harmless(name))
            }
            Some(NodeEnum::Constraint(_) | NodeEnum::TableLikeClause(_)) => true,
            Some(_) | None => false,
        }
    }
}

/// Whether a change of a table leaves alone what reading it runs.
fn is_inert(command: &Node) -> bool {
    let Some(NodeEnum::AlterTableCmd(command)) = &command.node else { return false };
    match AlterTableType::try_from(command.subtype) {
        Ok(
            AlterTableType::AtSetRelOptions
            | AlterTableType::AtResetRelOptions
            | AlterTableType::AtReplaceRelOptions
            | AlterTableType::AtSetStatistics
            | AlterTableType::AtSetOptions
            | AlterTableType::AtResetOptions
            | AlterTableType::AtSetStorage
            | AlterTableType::AtSetCompression
            | AlterTableType::AtClusterOn
            | AlterTableType::AtDropCluster
            | AlterTableType::AtSetLogged
            | AlterTableType::AtSetUnLogged
            | AlterTableType::AtSetNotNull
            | AlterTableType::AtDropNotNull
            | AlterTableType::AtDropConstraint
            | AlterTableType::AtColumnDefault
            | AlterTableType::AtSetTableSpace
            | AlterTableType::AtChangeOwner
            | AlterTableType::AtReplicaIdentity
            | AlterTableType::AtEnableTrig
            | AlterTableType::AtDisableTrig
            | AlterTableType::AtEnableTrigAll
            | AlterTableType::AtDisableTrigAll
            | AlterTableType::AtEnableTrigUser
            | AlterTableType::AtDisableTrigUser
            | AlterTableType::AtEnableAlwaysTrig
            | AlterTableType::AtEnableReplicaTrig,
        ) => true,
        // A key; a check has an expression, which planning looks at.
        Ok(AlterTableType::AtAddConstraint) => matches!(
            command.def.as_ref().and_then(|def| def.node.as_ref()),
            Some(NodeEnum::Constraint(constraint)) if constraint.raw_expr.is_none() && constraint.where_clause.is_none()
        ),
        Ok(_) | Err(_) => false,
    }
}

/// The last part of an object's name.
fn dropped(object: &Node) -> Option<String> {
    match object.node.as_ref()? {
        NodeEnum::List(list) => {
            list.items.iter().map(string).rfind(|name| !name.is_empty()).map(str::to_owned)
        }
        NodeEnum::TypeName(name) => name.names.last().map(|name| string(name).to_owned()),
        NodeEnum::ObjectWithArgs(object) => object.objname.last().map(|name| string(name).to_owned()),
        NodeEnum::String(text) => Some(text.sval.clone()),
        NodeEnum::RangeVar(relation) => Some(relation.relname.clone()),
        _ => None,
    }
}
