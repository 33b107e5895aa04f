include $(sort $(wildcard $(BR2_EXTERNAL_FUTAGO_PATH)/package/*/*.mk))
