#pragma once
#include "narrow.h"
