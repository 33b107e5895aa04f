//! Task Management Function Request and Response (RFC 7143 §11.5, §11.6).

use super::field::{Bit, Bits, U32, U64, code, pdu};

pdu! {
    /// A task management function.
    TaskManagementRequest = 0x02 {
        /// Outside of the command order.
        immediate: Bit<0, 0x40>,
        /// Always set.
        last: Bit<1, 0x80>,
        /// A [`TaskFunction`].
        function: Bits<1, 0x7f>,
        /// Logical unit number, where the function has one.
        lun: U64<8>,
        /// Names this request.
        initiator_task_tag: U32<16>,
        /// The task to abort or to reassign, else [`super::NO_TAG`].
        referenced_task_tag: U32<20>,
        /// Command sequence number.
        cmd_sn: U32<24>,
        /// Next status sequence number that the initiator expects.
        exp_stat_sn: U32<28>,
        /// Command sequence number of the task to abort.
        ref_cmd_sn: U32<32>,
        /// Used by task reassignment only.
        exp_data_sn: U32<36>,
    }
}

pdu! {
    /// End of a task management function.
    TaskManagementResponse = 0x22 {
        /// Always set.
        last: Bit<1, 0x80>,
        /// A [`TaskResult`].
        response: Bits<2, 0xff>,
        /// Tag of the request.
        initiator_task_tag: U32<16>,
        /// Status sequence number.
        stat_sn: U32<24>,
        /// Next command sequence number that the target expects.
        exp_cmd_sn: U32<28>,
        /// Last command sequence number that the target accepts.
        max_cmd_sn: U32<32>,
    }
}

code! {
    /// What is asked for.
    TaskFunction {
        /// Abort the task with the referenced tag.
        AbortTask = 1,
        /// Abort every task of this session on the LUN.
        AbortTaskSet = 2,
        /// Clear the auto contingent allegiance; there is none here (NACA is refused).
        ClearAca = 3,
        /// Abort every task of every session on the LUN.
        ClearTaskSet = 4,
        /// Reset the LUN.
        LogicalUnitReset = 5,
        /// Reset every LUN of the target; sessions stay.
        TargetWarmReset = 6,
        /// Reset every LUN of the target and end its sessions.
        TargetColdReset = 7,
        /// Move a task to another connection; needs error recovery level 2.
        TaskReassign = 8,
    }
}

code! {
    /// How it ended.
    TaskResult {
        /// Done.
        Complete = 0,
        /// The task is not known.
        NoTask = 1,
        /// The LUN is not known.
        NoLun = 2,
        /// The task can't be reassigned now.
        StillAllegiant = 3,
        /// Reassignment is not supported.
        NoReassign = 4,
        /// The function is not supported.
        Unsupported = 5,
        /// The initiator may not.
        Unauthorized = 6,
        /// Not done.
        Rejected = 255,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_where_the_rfc_says() {
        let request = TaskManagementRequest {
            immediate: true,
            last: true,
            function: TaskFunction::LogicalUnitReset.code(),
            referenced_task_tag: 1,
            ref_cmd_sn: 2,
            exp_data_sn: 3,
            ..TaskManagementRequest::default()
        };
        let bhs = request.encode();
        assert_eq!((bhs[0], bhs[1], bhs[23], bhs[35], bhs[39]), (0x42, 0x85, 1, 2, 3));
        assert_eq!(TaskManagementRequest::decode(&bhs), request);
        let response = TaskManagementResponse { last: true, response: 5, stat_sn: 1, ..Default::default() };
        let bhs = response.encode();
        assert_eq!((bhs[0], bhs[1], bhs[2], bhs[27]), (0x22, 0x80, 5, 1));
        assert_eq!(TaskManagementResponse::decode(&bhs), response);
        assert_eq!(TaskFunction::from_code(9), None);
        assert_eq!(TaskResult::from_code(255), Some(TaskResult::Rejected));
    }
}
